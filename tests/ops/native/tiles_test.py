"""Tiles against NumPy."""

import numpy as np

from moe.ops.native.tiles import PAST
from tests.ops.native.common import call, over_tiles, whole

GUARD = np.float32(123.0)


def room(rows, columns):
    """An array at a multiple of 64 bytes."""
    buffer = np.full(rows * columns + 16, GUARD)
    start = -buffer.ctypes.data % 64 // 4
    return buffer[start:][: rows * columns].reshape(rows, columns)


@over_tiles
def test_tiles_of_every_height(tile):
    rng = np.random.default_rng(0)
    k, columns = 5, tile.columns
    for rows in range(1, tile.rows + 1):
        strip, panel = whole(rng, k, rows), whole(rng, k, columns)
        out = np.full((rows + 1, columns + 3), GUARD)
        desired = strip.T @ panel
        for add in (0, 1):
            call(tile, f'fill_{rows}', k, strip, panel, out, out.shape[1], add)
            np.testing.assert_array_equal(
                out[:rows, :columns], (1 + add) * desired
            )
        # Past the caches, at multiples of a vector's size: adding nothing.
        aligned = room(rows + 1, columns + tile.lanes)
        stride = aligned.shape[1]
        call(tile, f'fill_{rows}', k, strip, panel, aligned, stride, PAST)
        np.testing.assert_array_equal(aligned[:rows, :columns], desired)
        assert (aligned[:, columns:] == GUARD).all()
        # Nothing is written beside or below the tile.
        assert (out[:, columns:] == GUARD).all()
        assert (out[rows:] == GUARD).all()
