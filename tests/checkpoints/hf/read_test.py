import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from moe.checkpoints.hf.files import Planned, find_tensors, write_tensors
from moe.checkpoints.hf.quantized import as_meant
from moe.checkpoints.hf.read import check_tensors, read_leaves
from moe.checkpoints.hf.tensors import LINEAR, TABLE, Published
from moe.config import ConfigError

SIZE = 256
STACK = 12


def written(folder, arrays):
    planned = [
        Planned(n, x.shape, x.dtype, lambda x=x: x) for n, x in arrays.items()
    ]
    write_tensors(folder, planned, 10**9)
    return as_meant(find_tensors(folder), None)


def stacked(count, size):
    """A leaf of `count` published tensors [size, size]."""
    return [
        Published(
            f'{i}',
            (size, size),
            ('params/x',),
            (i // 4, i % 4),
            ((size, size),),
            LINEAR,
        )
        for i in range(count)
    ]


def test_the_host_holds_one_tensor_beside_the_shards(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        f'{i}': rng.standard_normal((SIZE, SIZE)).astype(np.float32)
        for i in range(STACK)
    }
    there = written(tmp_path, arrays)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = {
        'params/x': jax.ShapeDtypeStruct(
            (STACK // 4, 4, SIZE, SIZE), np.float32, sharding=device
        )
    }
    wanted = stacked(STACK, SIZE)
    read_leaves(wanted, there, like)  # what is compiled stays
    tracemalloc.start()
    found = read_leaves(wanted, there, like)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    one = SIZE * SIZE * 4
    # A copy in the layout of the parameters, and the one before it, which JAX
    # lets go of at its next call.
    assert one <= peak < 2.5 * one < STACK * one
    for i, array in enumerate(arrays.values()):
        back = np.asarray(found['params/x'][i // 4, i % 4])
        assert back.tobytes() == array.T.tobytes()


def test_leaves_are_sharded_over_the_mesh(tmp_path):
    rng = np.random.default_rng(1)
    arrays = {
        f'{i}': rng.standard_normal((8, 8)).astype(np.float32) for i in range(4)
    }
    arrays['head'] = rng.standard_normal((4, 8)).astype(np.float32)
    there = written(tmp_path, arrays)
    mesh = jax.make_mesh(
        (2, 4), ('expert', 'fsdp'), axis_types=(jax.sharding.AxisType.Auto,) * 2
    )
    of = lambda *spec: NamedSharding(mesh, P(*spec))
    like = {
        'params/x': jax.ShapeDtypeStruct(
            (1, 4, 8, 8), jnp.bfloat16, sharding=of(None, 'expert', 'fsdp')
        ),
        'params/head': jax.ShapeDtypeStruct(
            (4, 8), np.float32, sharding=of('fsdp')
        ),
    }
    head = Published('head', (4, 8), ('params/head',), (), ((4, 8),), TABLE)
    found = read_leaves([*stacked(4, 8), head], there, like)
    for name, leaf in like.items():
        assert found[name].sharding.is_equivalent_to(leaf.sharding, leaf.ndim)
        assert found[name].dtype == leaf.dtype
    assert np.array_equal(found['params/head'], arrays['head'])
    wanted = np.stack([arrays[f'{i}'].T for i in range(4)])[None]
    assert np.array_equal(found['params/x'], wanted.astype(jnp.bfloat16))


def test_missing_tensors_and_other_shapes_are_told(tmp_path):
    there = written(tmp_path, {'0': np.zeros((8, 8), np.float32)})
    with pytest.raises(ConfigError, match=r'tensor 1 = None: must be in the'):
        check_tensors(stacked(2, 8), there)
    with pytest.raises(ConfigError, match=r'tensor 0 = \[8, 8\]: must be of'):
        check_tensors(stacked(1, 4), there)
    assert check_tensors([], there) == {'0'}
