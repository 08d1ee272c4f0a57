"""Memory that a run takes at least, told before anything is allocated.

A lower bound of the peak on a device, of terms that are certain: the parameters
and the optimizer's state, beside either all gradients, or what the backward
pass needs of the forward pass. What a compiler adds is left out, so that no run
is refused that fits; `launch.plan` compiles, and knows.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from moe.config import ConfigError
from moe.parallel import parameter_shardings
from moe.parallel.mesh import BATCH_AXES, num_shards
from moe.training.config import Config
from moe.training.host import available_memory
from moe.training.optimizer import make_optimizer
from moe.training.workload import Workload

_GIB = 2**30
_OF_STATE = ('parameters', 'optimizer state', 'gradients')


def check_memory(config: Config, workload: Workload, mesh: Mesh) -> None:
    """Refuses a run that cannot fit the memory of its devices.

    Args:
      config: config of the run.
      workload: workload of the run, with its data loaded.
      mesh: the device mesh.

    Raises:
      ConfigError: if it cannot fit, with the figure and the largest term.
    """
    terms = least_memory(config, workload, mesh)
    need, there = least_peak(terms), memory_of(jax.local_devices()[0])
    if there is None or need <= there:
        return
    largest = max(terms, key=terms.__getitem__)
    field, value = 'config.data.batch_size', config.data.batch_size
    if largest in _OF_STATE:
        total, _ = workload.count_parameters()
        field, value = 'config.model', f'{total:,} parameters'
    allowed = (
        f'smaller: a device needs at least {need / _GIB:,.1f} GiB, '
        f'{terms[largest] / _GIB:,.1f} of them for {largest}, and has '
        f'{there / _GIB:,.1f}'
    )
    raise ConfigError(field, value, allowed)


def least_peak(terms: dict[str, int]) -> int:
    """Returns the least peak of the terms, in bytes, which are not all at once.

    Args:
      terms: bytes by term, see `least_memory`.
    """
    forward = sum(n for name, n in terms.items() if name not in _OF_STATE)
    state = terms['parameters'] + terms['optimizer state']
    return state + max(terms['gradients'], forward)


def least_memory(
    config: Config, workload: Workload, mesh: Mesh
) -> dict[str, int]:
    """Returns the bytes of a device that a step takes at least, by term.

    Args:
      config: config of the run.
      workload: workload of the run, with its data loaded.
      mesh: the device mesh.
    """
    declared = workload.parameters
    params = jax.tree.map(
        lambda p: jax.ShapeDtypeStruct(p.shape, jnp.float32), declared
    )
    optimizer = make_optimizer(config.optimizer, config.steps, declared)
    moments = jax.eval_shape(optimizer.init, params)
    if config.average:
        moments = (moments, params)

    def size(tree: Any) -> int:
        places = parameter_shardings(mesh, tree, declared, config.expert_axes)
        sizes = jax.tree.map(
            lambda x, place: (
                math.prod(place.shard_shape(x.shape)) * x.dtype.itemsize
            ),
            tree,
            places,
        )
        return sum(jax.tree.leaves(sizes))

    found = {
        'parameters': size(params),
        'optimizer state': size(moments),
        'gradients': size(params),
    }
    rows = config.data.batch_size / num_shards(mesh, BATCH_AXES)
    # A microbatch; its rows may be split over `tensor` in other ways.
    micro = rows / config.optimizer.accumulation / mesh.shape['tensor']
    for name, each in workload.example_bytes().items():
        found[name] = int(each * (rows if name == 'batch' else micro))
    return found


def memory_of(device: jax.Device) -> int | None:
    """Returns the bytes that a device has for arrays; None if unknown.

    Args:
      device: a device of this process; those on the CPU share what is free.
    """
    stats = device.memory_stats() or {}
    if 'bytes_limit' in stats:
        return stats['bytes_limit']
    if device.platform != 'cpu':
        return None
    return available_memory() // jax.local_device_count()
