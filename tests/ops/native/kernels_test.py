"""Blocks that are copied against NumPy."""

import numpy as np
import pytest

from tests.ops.native.common import call, over_tiles, whole

GUARD = np.float32(123.0)


@over_tiles
@pytest.mark.parametrize('columns', [32, 33])  # whole vectors, or not
def test_a_block_is_copied(tile, columns):
    source = whole(np.random.default_rng(3), 3, 40)
    out = np.full((4, 48), GUARD)
    call(tile, 'copy_block', 3, columns, out, 48, source, 40)
    np.testing.assert_array_equal(out[:3, :columns], source[:, :columns])
    assert (out[:, columns:] == GUARD).all()
    assert (out[3] == GUARD).all()
