"""Compiles the train step ahead of time for machines you do not have.

Shapes only: no parameter and no batch is ever allocated.
"""

import dataclasses
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from launch.planning.machines import NoCompiler, Topology
from moe.parallel import (
    batch_sharding,
    make_mesh,
    parameter_shardings,
    with_shardings,
)
from moe.training.step import init_state, jit_train_step
from moe.workloads.planning import Planning


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled train step, and the compiler's figures.

    Attributes:
      text: optimised HLO; '' if it needs too much memory to compile.
      flops_once: the compiler's count of FLOPs, each loop body once; None if it
        does not count.
      memory: bytes of a device by kind.
      seconds: seconds of the compilation.
      coords: coordinates of every device, [N, dimensions].
      total: number of parameters.
      active: number of parameters active for a token.
    """

    text: str
    flops_once: float | None
    memory: dict[str, float]
    seconds: float
    coords: np.ndarray
    total: int
    active: int


def compile_step(planning: Planning, topology: Topology) -> Compiled:
    """Compiles the train step of a run for a topology.

    Args:
      planning: planning of the run.
      topology: the machines.

    Returns:
      The compiled step; its text is '' if it needs too much memory.

    Raises:
      NoCompiler: without the compiler, or for a topology it does not have.
    """
    config, workload = planning.config, planning.workload
    mesh = make_mesh(config.mesh, devices_of(topology))
    with jax.set_mesh(mesh), topology.lowering():
        shapes = jax.eval_shape(lambda: init_state(config, workload=workload))
        shardings = parameter_shardings(
            mesh, shapes, workload.parameters, config.expert_axes
        )
        state = with_shardings(shapes, shardings)
        rows = batch_sharding(mesh)
        batch = with_shardings(
            planning.batch, jax.tree.map(lambda _: rows, planning.batch)
        )
        step = jit_train_step(mesh, config, workload, shardings)
        start = time.perf_counter()
        memory = {
            'parameters': _share(state.params),
            'optimizer': _share(state.opt_state),
        }
        text, flops = '', None
        try:
            program = step.lower(state, batch).compile(
                compiler_options=dict(topology.compiler_options)
            )
        except jax.errors.JaxRuntimeError as error:
            memory['temporaries'] = wanted(error, memory)
        else:
            text = program.as_text() or ''
            flops = dict(program.cost_analysis() or {}).get('flops')
            memory |= _memory(program.memory_analysis(), memory)
        seconds = time.perf_counter() - start
    total, active = workload.count_parameters()
    coords = np.array([*map(topology.coordinates, mesh.devices.ravel())])
    return Compiled(text, flops, memory, seconds, coords, total, active)


def devices_of(topology: Topology) -> Sequence[Any]:
    """Returns the devices of a topology, to compile for.

    Args:
      topology: the machines.

    Raises:
      NoCompiler: without the compiler, or for a topology it does not have.
    """
    found = topology.devices()
    if len(found) != topology.num_devices:
        raise NoCompiler(
            f'{topology.name}: {len(found)} devices and not '
            f'{topology.num_devices}'
        )
    return found


def _share(tree: Any) -> float:
    """Returns the bytes of a tree of shapes on one device."""

    def size(leaf):
        shape = leaf.sharding.shard_shape(leaf.shape)
        return math.prod(shape) * leaf.dtype.itemsize

    return float(sum(size(leaf) for leaf in jax.tree.leaves(tree)))


def _memory(found: Any, memory: Mapping[str, float]) -> dict[str, float]:
    """Returns bytes by kind; parameters and state are updated in place."""
    known = memory['parameters'] + memory['optimizer']
    outputs = found.output_size_in_bytes - found.alias_size_in_bytes
    return {
        'other_arguments': max(0.0, found.argument_size_in_bytes - known),
        'outputs': float(outputs),
        'temporaries': float(found.temp_size_in_bytes),
        'code': float(found.generated_code_size_in_bytes),
    }


def wanted(error: Exception, memory: Mapping[str, float]) -> float:
    """Returns the bytes of temporaries for which a program was refused.

    Args:
      error: the compiler's error; one that is not about memory is raised again.
      memory: bytes of a device of everything else, by kind.

    Returns:
      The bytes of temporaries of a device.
    """
    message = str(error)
    if 'RESOURCE_EXHAUSTED' not in message:
        raise error
    units = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
    temporaries = re.search(r'HLO temporaries \(([\d.]+)([KMGT])', message)
    used = re.search(r'Used ([\d.]+)([KMGT]) of', message)
    found = temporaries or used
    if not found:
        raise error
    size = float(found.group(1)) * units[found.group(2)]
    return size if temporaries else size - sum(memory.values())
