"""Packed matrices against NumPy."""

import numpy as np
import pytest

from tests.ops.native.common import call, over_tiles, whole

GUARD = np.float32(123.0)


@over_tiles
@pytest.mark.parametrize('transposed', [False, True])
@pytest.mark.parametrize('height', [2, 3])
def test_strips_are_packed(tile, transposed, height):
    # 7 rows, so that the last strip is lower; lengths of whole vectors and not.
    matrix = whole(
        np.random.default_rng(1), *((37, 9) if transposed else (9, 37))
    )
    m, k = 7, 37
    length = k + tile.lanes
    strips = np.empty(8 * length, np.float32)
    stride = matrix.shape[1]
    name = f'pack_strips_{transposed:d}'
    call(tile, name, strips, matrix, stride, m, k, height)
    rows = matrix.T if transposed else matrix
    for i in range(0, m, height):
        desired = rows[i : min(i + height, m)].T.ravel()
        strip = strips[i * length :][: desired.size]
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
