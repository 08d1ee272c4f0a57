"""Gated experts of all tiles, called by XLA, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.ops.native.build import register
from tests.ops.native.common import gelu, over_tiles, silu

# 300 rows are two tasks, 300 of F two times all columns; D is past a block.
A, D, F, N = 320, 520, 300, 37
TASKS = np.array([[1, 0, 200], [1, 200, 100], [2, 300, 20]], np.int32)
GROUPS = np.array([[0, 0], [0, 300]], np.int32)


@pytest.mark.parametrize('act', [silu, gelu])
@over_tiles
def test_forward_and_backward(tile, act):
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    x, dy = draw(A, D), draw(A, N)
    up, gate, down = draw(2, D, F) / 20, draw(2, D, F) / 20, draw(2, F, N) / 20
    x[7] = 100  # gates of some hundreds
    prefix = f'test_{tile.lanes}'
    register(prefix, tile)
    shape = lambda *dims: jax.ShapeDtypeStruct(dims, jnp.float32)
    chosen = np.full((1, 1), [silu, gelu].index(act), np.int32)

    @jax.jit
    def run(x, up, gate, down, dy):
        call = lambda name, out, **more: jax.ffi.ffi_call(
            f'{prefix}_{name}', out, **more
        )
        inner, none = shape(A, F), shape(0, F)
        args = (x, up, gate, down, TASKS, chosen)
        y, *kept = call('gated', (shape(A, N), inner, inner))(*args)
        alone, *_ = call('gated', (shape(A, N), none, none))(*args)
        d_down = call('gated_down', shape(2, F, N))(*kept, chosen, dy, GROUPS)
        args = (dy, *kept, up, gate, down, TASKS, chosen, d_down)
        rows = call(
            'gated_rows',
            (shape(A, D), inner, inner),
            input_output_aliases={1: 1, 2: 2},
        )
        return y, alone, d_down, rows(*args)

    y, alone, d_down, (dx, *d_kept) = run(x, up, gate, down, dy)
    x, dy, up, gate, down = (
        v.astype(np.float64)[i]
        for v, i in zip(
            (x, dy, up, gate, down), [slice(300)] * 2 + [1] * 3, strict=True
        )
    )
    a, slope = act(x @ gate)
    h, dh = a * (x @ up), dy @ down.T
    d_up, d_gate = dh * a, dh * (x @ up) * slope
    close = lambda found, desired: np.testing.assert_allclose(
        found, desired, rtol=2e-5, atol=2e-5 * np.abs(desired).max()
    )
    close(y[:300], h @ down)
    close(d_down[1], h.T @ dy)
    close(d_kept[0][:300], d_up)
    close(d_kept[1][:300], d_gate)
    close(dx[:300], d_up @ up.T + d_gate @ gate.T)
    # The group without rows, and the rows without a group.
    for empty in (d_down[0], y[300:], dx[300:]):
        assert not empty.any()
    np.testing.assert_array_equal(y, alone)
