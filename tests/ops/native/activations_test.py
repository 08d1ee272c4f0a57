"""Activations of blocks against float64."""

import numpy as np
import pytest

from tests.ops.native.common import call, gelu, over_tiles, silu

# 37 columns of 40 are whole vectors and more; gates of any size, and zero.
SHAPE, COLUMNS = (3, 40), 37


@pytest.mark.parametrize('act', [silu, gelu])
@over_tiles
def test_values_and_gradients(tile, act):
    rng = np.random.default_rng(0)
    draw = lambda: rng.standard_normal(SHAPE).astype(np.float32)
    up, gate, dh = draw(), draw() * 4, draw()
    gate[0, :6] = [0, 90, -90, 1e5, -1e5, -30]
    value, slope = act(gate.astype(np.float64))
    h, more = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.float32)
    chosen, stride = [silu, gelu].index(act), SHAPE[1]
    block = (chosen, 3, COLUMNS, up, gate, stride)

    def close(found, desired):
        within = np.s_[:, :COLUMNS]
        np.testing.assert_allclose(
            found[within], desired[within], rtol=2e-6, atol=1e-6
        )

    expected = dh * value, dh * up * slope
    call(tile, 'hidden', *block, h, stride)
    close(h, value * up)
    assert not h[:, COLUMNS:].any()
    call(tile, 'gradients', *block, dh, stride, more)
    # In the place of `up` and `gate`, and once more beside.
    for found, again, desired in zip(
        (up, gate), (dh, more), expected, strict=True
    ):
        close(found, desired)
        np.testing.assert_array_equal(again[:, :COLUMNS], found[:, :COLUMNS])
