"""Row movements and the sort of all tiles, called by XLA, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from moe.ops.native.build import register
from tests.ops.native.common import over_tiles, whole

# More rows than a task has; a width with a rest for every number of lanes.
N, M, D = 50, 150, 37


def called(tile, name, shape, dtype, *args):
    prefix = f'test_{tile.lanes}'
    register(prefix, tile)
    out = jax.ShapeDtypeStruct(shape, dtype)
    return jax.jit(jax.ffi.ffi_call(f'{prefix}_{name}', out))(*args)


def some_rows(rng, *shape):
    """Indices of rows; N, N + 1 and -1 are none."""
    return rng.integers(-1, N + 2, shape).astype(np.int32)


def padded(x, index):
    """Rows by index, zeros for those that do not exist."""
    exists = (index >= 0) & (index < N)
    return np.where(exists[..., None], x[np.clip(index, 0, N - 1)], 0)


@over_tiles
def test_weighted_sums_of_rows(tile):
    rng = np.random.default_rng(0)
    x, weight, index = whole(rng, N, D), whole(rng, 3, M), some_rows(rng, 3, M)
    assert np.any(index[0] == N)
    y = called(tile, 'gather', (M, D), jnp.float32, x, index, weight)
    desired = np.sum(weight[..., None] * padded(x, index), axis=0)
    np.testing.assert_array_equal(y, desired)


@over_tiles
def test_products_of_rows(tile):
    rng = np.random.default_rng(1)
    x, y, index = whole(rng, M, D), whole(rng, N, D), some_rows(rng, M, 1)
    out = called(tile, 'dots', (M, 1), jnp.float32, x, y, index)
    desired = np.sum(x * padded(y, index[:, 0]), axis=1)
    np.testing.assert_array_equal(out[:, 0], desired)


@over_tiles
def test_order_of_keys(tile):
    # Of 7 numbers 3 does not occur.
    keys = np.random.default_rng(2).choice([0, 1, 2, 4, 5, 6], 100)
    keys = keys.astype(np.int32)[None]
    out = called(tile, 'order', (1, 107), jnp.int32, keys)[0]
    np.testing.assert_array_equal(out[:100], np.argsort(keys[0], kind='stable'))
    desired = [np.sum(keys <= number) for number in range(7)]
    np.testing.assert_array_equal(out[100:], desired)
