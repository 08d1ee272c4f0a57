"""Tiles against NumPy."""

import numpy as np

from tests.ops.native.common import call, over_tiles, whole

GUARD = np.float32(123.0)


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
        # Nothing is written beside or below the tile.
        assert (out[:, columns:] == GUARD).all()
        assert (out[rows:] == GUARD).all()
