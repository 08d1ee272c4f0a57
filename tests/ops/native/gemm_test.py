"""Products of matrices against NumPy in float64."""

import numpy as np
import pytest

from moe.ops.native.tiles import PAST
from tests.ops.native.common import SIDES, call, engine, over_tiles, whole


# Up to four rows, whose right factor is not packed, and one more; edges of
# tiles, and of blocks of 512 of the sum.
@pytest.mark.parametrize(
    ('m', 'n', 'k'),
    [
        (1, 1, 1),
        (2, 37, 8),
        (4, 70, 513),
        (5, 70, 20),
        (13, 33, 17),
        (29, 70, 513),
        (256, 64, 1030),
    ],
)
@pytest.mark.parametrize('sides', SIDES)
@over_tiles
def test_products(tile, sides, m, n, k):
    rng = np.random.default_rng(m)
    left, right = whole(rng, m, k), whole(rng, k, n)
    stored = [
        np.ascontiguousarray(x.T) if transposed else x
        for x, transposed in zip((left, right), sides, strict=True)
    ]
    out = np.full((m, n + 1), np.float32(123.0))
    scratch = [np.empty(size, np.float32) for size in engine(tile)[1:]]
    arrays = (stored[0], stored[0].shape[1], stored[1], stored[1].shape[1])
    name = f'gemm_{sides[0]:d}{sides[1]:d}'
    # Whole numbers up to 64 * 1030, exact in float32.
    desired = left.astype(np.float64) @ right.astype(np.float64)
    # Added up in a second call, for which the left factor is packed already.
    for calls in (1, 2):
        rest = (calls - 1, calls - 1, *scratch)
        call(tile, name, m, n, k, *arrays, out, n + 1, *rest)
        np.testing.assert_array_equal(out[:, :n], calls * desired)
    assert (out[:, n:] == 123.0).all()


@over_tiles
def test_few_rows_past_the_caches(tile):
    # Nothing of what was there before is read.
    rng = np.random.default_rng(0)
    left, right = whole(rng, 3, 19), whole(rng, 19, 64)
    out = np.full((3, 64), np.float32(np.nan))
    scratch = [np.empty(size, np.float32) for size in engine(tile)[1:]]
    arrays = (left, 19, right, 64, out, 64)
    call(tile, 'gemm_00', 3, 64, 19, *arrays, PAST, 0, *scratch)
    desired = left.astype(np.float64) @ right.astype(np.float64)
    np.testing.assert_array_equal(out, desired)
