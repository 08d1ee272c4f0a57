"""Products of padded blocks, which are plain JAX, on CPU."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.ops.nvidia import padded
from tests.reference.compare import assert_close
from tests.reference.grouped import grouped_products, whole_numbers

D, F = 3, 5


@jax.jit
def products(x, w, sizes, dy):
    rows_times = padded.rows_times
    return rows_times(x, w, sizes, False), rows_times(dy, w, sizes, True)


def problem(num_rows, sizes, dtype=jnp.float32):
    values = whole_numbers(num_rows, len(sizes), (D, F))
    x, w, dy = (jnp.asarray(v, dtype) for v in values)
    return x, w, np.array(sizes, np.int32), dy


@pytest.mark.parametrize(
    ('num_rows', 'sizes'),
    [
        (70, [20, 0, 30, 10]),  # 70/4/2 = 8 and so the least, 32 rows a block
        (70, [0, 33, 0, 32]),
        (70, [32, 5, 0, 33]),
        (70, [0, 0, 0, 0]),
        (2100, [1030, 1070]),  # 2100/2/2 = 525: the most, 512
        (0, [0, 0]),
    ],
    ids=str,
)
@pytest.mark.parametrize('at_once', [1, 3, 100], ids='{} at once'.format)
def test_against_a_loop_over_rows(monkeypatch, num_rows, sizes, at_once):
    monkeypatch.setattr(padded, '_AT_ONCE', at_once * D * F)
    jax.clear_caches()
    args = problem(num_rows, sizes)
    # Exact inputs, whose products float32 sums without rounding.
    assert_close(products(*args), grouped_products(*args)[:2], 1e-7)


def test_bfloat16_is_summed_in_float32():
    # As in tests/ops/grouped_matmul_test.py: 2048 + 62 = 2110 as 2112.
    x = jnp.ones((4, 63), jnp.bfloat16)
    w = jnp.ones((2, 63, 1), jnp.bfloat16).at[:, 0].set(2048)
    y = padded.rows_times(x, w, jnp.array([1, 2]), False)
    assert y.dtype == jnp.bfloat16
    assert y.tolist() == [[2112], [2112], [2112], [0]]


@pytest.mark.parametrize('junk', [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_rows(junk):
    x, w, sizes, dy = problem(70, [20, 0, 9, 0])
    expected = grouped_products(x, w, sizes, dy)[:2]
    # Row 19, the last of its group, and all rows past the last group.
    x, dy = x.at[29:].set(junk), dy.at[29:].set(junk).at[19].set(junk)
    y, dx = products(x, w, sizes, dy)
    assert not np.any(np.isfinite(dx[19]))
    assert_close((y, dx.at[19].set(expected[1][19])), expected, 1e-7)


def test_cost_follows_the_rows_and_not_the_experts():
    # 4,096 rows of 64 experts are in blocks of 32, with those that groups do
    # not fill at most 4096/32 + 64 = 192 of them, 1.5 times the rows. The one
    # product of the loop is of 32 blocks, so that it runs 6 times.
    x, w = jnp.zeros((4096, 16)), jnp.zeros((64, 16, 8))
    run = functools.partial(padded.rows_times, transpose=False)
    text = str(jax.make_jaxpr(run)(x, w, jnp.zeros(64, jnp.int32)))
    (shape,) = re.findall(r':f32\[([\d,]+)\] = dot_general', text)
    blocks, rows, width = map(int, shape.split(','))
    assert (blocks * rows, width) == (192 * 32, 8)
