"""Grouped products of all tiles, called by XLA, against loops over groups."""

import jax
import jax.numpy as jnp
import numpy as np

from moe.ops.native import products
from moe.ops.native.build import TILES, register
from tests.ops.native.common import over_tiles, whole


def product(tile, name, shape, *args):
    prefix = f'test_{tile.lanes}'
    register(prefix, tile)
    out = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.jit(jax.ffi.ffi_call(f'{prefix}_{name}', out))(*args)


@over_tiles
def test_rows_times_matrices(tile):
    rng = np.random.default_rng(0)
    x, w = whole(rng, 70, 20), whole(rng, 3, 20, 37)
    # Group 1 has no rows, group 3 (there are 0 to 2) are rows to be zeroed.
    tasks = np.array([[2, 30, 20], [0, 0, 30], [3, 50, 20]], np.int32)
    desired = np.zeros((70, 37))
    desired[:30], desired[30:50] = x[:30] @ w[0], x[30:50] @ w[2]
    y = product(tile, 'rows_0', (70, 37), x, w, tasks)
    np.testing.assert_array_equal(y, desired)
    transposed = np.ascontiguousarray(w.transpose(0, 2, 1))
    y = product(tile, 'rows_1', (70, 37), x, transposed, tasks)
    np.testing.assert_array_equal(y, desired)


@over_tiles
def test_sums_of_outer_products(tile):
    # 300 rows of the result: two blocks of a group.
    rng = np.random.default_rng(1)
    x, y = whole(rng, 70, 300), whole(rng, 70, 37)
    groups = np.array([[0, 30], [30, 0], [30, 20]], np.int32)
    dw = product(tile, 'outer', (3, 300, 37), x, y, groups)
    desired = [x[:30].T @ y[:30], np.zeros((300, 37)), x[30:50].T @ y[30:50]]
    np.testing.assert_array_equal(dw, np.stack(desired))


def test_large_sums_are_written_past_the_caches(monkeypatch):
    # As if all were large. Widths that are whole tiles, whole vectors, and
    # not; and 600 rows, which are added up in two parts.
    tile = list(TILES.values())[-1]
    monkeypatch.setattr(products, '_FAR', 0)
    register('test_past', tile)
    rng = np.random.default_rng(2)
    for width in (tile.columns, tile.columns + tile.lanes, 37):
        x, y = whole(rng, 640, 20), whole(rng, 640, width)
        groups = np.array([[0, 30], [30, 0], [30, 600]], np.int32)
        out = jax.ShapeDtypeStruct((3, 20, width), jnp.float32)
        call = jax.ffi.ffi_call('test_past_outer', out)
        desired = [x[:30].T @ y[:30], np.zeros((20, width))]
        desired.append(x[30:630].T @ y[30:630])
        dw = jax.jit(call)(x, y, groups)
        np.testing.assert_array_equal(dw, np.stack(desired))
