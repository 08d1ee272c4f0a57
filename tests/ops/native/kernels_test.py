"""Tiles and packed matrices against NumPy."""

import numpy as np
import pytest

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


@over_tiles
@pytest.mark.parametrize('transposed', [False, True])
def test_a_strip_is_packed(tile, transposed):
    matrix = whole(np.random.default_rng(1), 7, 9)
    rows, k = (9, 7) if transposed else (7, 9)
    rows = min(rows, tile.rows)
    strip = np.empty((k, rows), np.float32)
    call(tile, f'pack_strip_{transposed:d}', strip, matrix, 9, rows, k)
    desired = matrix[:, :rows] if transposed else matrix[:rows].T
    np.testing.assert_array_equal(strip, desired)


@over_tiles
@pytest.mark.parametrize('transposed', [False, True])
@pytest.mark.parametrize('missing', [0, 1])
@pytest.mark.parametrize('k', [1, 16, 37])
def test_a_panel_is_packed(tile, transposed, missing, k):
    columns = tile.columns - missing
    rng = np.random.default_rng(2)
    # Wider than what is packed; the next panel is only fetched ahead.
    matrix = whole(rng, columns, k + 3) if transposed else whole(rng, k, 80)
    panel = np.full((k, tile.columns), GUARD)
    stride = matrix.shape[1]
    call(
        tile,
        f'pack_panel_{transposed:d}',
        panel,
        matrix,
        stride,
        k,
        columns,
    )
    desired = matrix[:, :k].T if transposed else matrix[:, :columns]
    np.testing.assert_array_equal(panel[:, :columns], desired)
    assert not panel[:, columns:].any()
