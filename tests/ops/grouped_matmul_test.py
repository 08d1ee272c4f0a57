"""Grouped products against a loop over rows, in values and gradients."""

import functools
import re

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.ops import grouped_matmul
from tests.reference.compare import assert_close
from tests.reference.grouped import grouped_products, whole_numbers

pytestmark = pytest.mark.slow

D, F = 3, 5


@jax.jit
def products(x, w, sizes, dy):
    """(y, dx, dw) for the cotangent dy."""
    y, pull = jax.vjp(lambda x, w: grouped_matmul(x, w, sizes), x, w)
    return y, *pull(dy)


def draw(num_rows, num_experts, seed=0, dtype=np.float32):
    values = whole_numbers(num_rows, num_experts, (D, F), seed)
    return [jnp.asarray(v, dtype) for v in values]


def check(sizes, num_rows, seed=0):
    x, w, dy = draw(num_rows, len(sizes), seed)
    sizes = np.array(sizes, np.int32)
    actual = products(x, w, sizes, dy)
    chex.assert_trees_all_equal_dtypes(actual, (x, x, w))
    # Exact inputs, whose products float32 sums without rounding.
    assert_close(actual, grouped_products(x, w, sizes, dy), 1e-7)


# On CPU row blocks are of 32 rows at least, 64 for the gradient of w.
@pytest.mark.parametrize(
    'sizes',
    [
        [20, 10, 30, 10],
        [0, 35, 0, 35],  # groups without rows
        [0, 70, 0, 0],  # all rows in one group
        [0, 0, 0, 70],
        [64, 0, 5, 1],
        [32, 5, 0, 0],  # 33 rows past the end
        [0, 0, 0, 0],
    ],
    ids=str,
)
def test_70_rows(sizes):
    check(sizes, 70)


@pytest.mark.parametrize('sizes', [[70], [33], [0]], ids=str)
def test_single_group(sizes):
    check(sizes, 70)


@pytest.mark.parametrize('sizes', [[1030, 1070], [127, 1973]], ids=str)
def test_large_blocks_that_rows_do_not_fill(sizes):
    # 2100 rows of 2 groups: blocks of 2100/2/8 = 131, so 128 rows.
    check(sizes, 2100)


@hypothesis.settings(max_examples=25)
@hypothesis.given(
    cuts=st.lists(st.integers(0, 70), min_size=4, max_size=4),
    seed=st.integers(0, 2**31),
)
def test_any_sizes(cuts, seed):
    # The sizes between 4 sorted cuts; the rows past the last are empty.
    check(np.diff([0, *sorted(cuts)]), 70, seed)


@pytest.mark.parametrize('junk', [np.nan, np.inf, -np.inf])
def test_rows_past_the_end_are_not_read(junk):
    # Neither in the rows nor in their cotangents, next to an empty group.
    sizes = np.array([20, 0, 9, 0], np.int32)
    x, w, dy = draw(70, 4)
    desired = grouped_products(x, w, sizes, dy)
    x, dy = x.at[29:].set(junk), dy.at[29:].set(junk)
    y, dx, dw = products(x, w, sizes, dy)
    assert not np.any(y[29:])
    assert not np.any(dx[29:])
    assert_close((y, dx, dw), desired, 1e-7)


def test_what_is_not_finite_stays_in_its_group():
    # Group 1 of rows 20 to 28 has an infinite row, group 2 a NaN matrix.
    sizes = np.array([20, 9, 0, 41], np.int32)
    x, w, dy = draw(70, 4)
    desired = grouped_products(x, w, sizes, dy)
    y, dx, dw = products(x.at[22].set(np.inf), w.at[2].set(np.nan), sizes, dy)
    others = np.arange(70) != 22
    assert_close((y[others], dx), (desired[0][others], desired[1]), 1e-7)
    assert not np.any(np.isfinite(y[22]))
    assert_close(dw[jnp.array([0, 2, 3])], desired[2][[0, 2, 3]], 1e-7)


def test_bfloat16_accumulates_in_float32():
    # 2048 + 1 + ... + 1 (62 ones) = 2110 in float32, and 2112 as a bfloat16;
    # sums kept in bfloat16, whose numbers there are 16 apart, stay at 2048.
    x = jnp.ones((4, 63), jnp.bfloat16)
    w = jnp.ones((2, 63, 1), jnp.bfloat16).at[:, 0].set(2048)
    y = grouped_matmul(x, w, jnp.array([1, 2]))
    assert y.dtype == jnp.bfloat16
    assert y.tolist() == [[2112], [2112], [2112], [0]]


def test_bfloat16_sums_blocks_in_float32():
    # Over 2048 rows in blocks of 2048/2/8 = 128: 2048 + 2047/16 = 2175.9, as a
    # bfloat16 2176. A sum kept in bfloat16 would stay at 2048, block after
    # block of 128/16 = 8, half of the distance to the next number.
    x = jnp.full((2048, 1), 1 / 16, jnp.bfloat16).at[0].set(2048)
    w, dy = jnp.ones((2, 1, 1), x.dtype), jnp.ones_like(x)
    dw = products(x, w, jnp.array([2048, 0]), dy)[2]
    assert dw.tolist() == [[[2176]], [[0]]]


def test_bfloat16_gradients():
    # Inputs are exact and small, so the results only round once, by 2^-8.
    sizes = np.array([20, 0, 29, 0], np.int32)
    x, w, dy = draw(70, 4, dtype=jnp.bfloat16)
    actual = products(x, w, sizes, dy)
    chex.assert_trees_all_equal_dtypes(actual, (x, x, w))
    assert_close(actual, grouped_products(x, w, sizes, dy), 2**-8)


@pytest.mark.parametrize(
    'batched',
    ['x w sizes dy', 'x sizes dy', 'x dy', 'w', 'sizes', 'dy'],
)
def test_vmap(batched):
    # Three problems at once, which share what is not batched.
    sizes = np.array([[20, 0, 30, 20], [0, 0, 5, 1], [70, 0, 0, 0]], np.int32)
    problems = [[*draw(70, 4, seed), sizes[seed]] for seed in range(3)]
    names, args, axes = ('x', 'w', 'dy', 'sizes'), {}, {}
    for i, name in enumerate(names):
        axes[name] = 0 if name in batched.split() else None
        for problem in problems:
            problem[i] = problem[i] if axes[name] == 0 else problems[0][i]
        every = np.stack([problem[i] for problem in problems])
        args[name] = every if axes[name] == 0 else every[0]
    run = jax.vmap(products, [axes[n] for n in ('x', 'w', 'sizes', 'dy')])
    actual = jax.jit(run)(args['x'], args['w'], args['sizes'], args['dy'])
    for i, (x, w, dy, sizes) in enumerate(problems):
        one = [v[i] for v in actual]
        assert_close(one, list(grouped_products(x, w, sizes, dy)), 1e-7)


def lowered(platform, num_rows=512, num_experts=64, width=64, features=32):
    shapes = [
        jax.ShapeDtypeStruct((num_rows, width), jnp.float32),
        jax.ShapeDtypeStruct((num_experts, width, features), jnp.float32),
        jax.ShapeDtypeStruct((num_experts,), jnp.int32),
        jax.ShapeDtypeStruct((num_rows, features), jnp.float32),
    ]
    return products.trace(*shapes).lower(lowering_platforms=(platform,))


@pytest.mark.parametrize('platform', ['tpu', 'cuda', 'cpu'])
def test_lowering_platform_chooses_the_kernel(platform):
    # y, dx and dw are one native ragged product each on TPU, else loops; for
    # what is taken on GPUs see tests/ops/nvidia.
    text = lowered(platform).as_text()
    ragged = len(re.findall(r'= "chlo\.ragged_dot"', text))
    loops = text.count('stablehlo.while')
    assert (ragged, loops > 0) == (
        (3, False) if platform == 'tpu' else (0, True)
    )


def test_cpu_memory_does_not_grow_with_rows_times_experts():
    # A masked dense product would hold A*E*D = 512*64*64 floats, 8.4 MB. The
    # blocks need the padded rows and a copy of dw, E*D*F floats or 0.5 MB.
    memory = lowered('cpu').compile().memory_analysis()
    rows, matrices = 512 * (64 + 32) * 4, 64 * 64 * 32 * 4
    assert memory.temp_size_in_bytes < 2 * (rows + matrices) < 512 * 64 * 64


@pytest.mark.parametrize(
    ('x', 'w', 'sizes'),
    [((7, 3), (2, 4, 5), (2,)), ((7, 3), (2, 3, 5), (3,))],
)
def test_shapes_that_do_not_fit(x, w, sizes):
    call = functools.partial(grouped_matmul, jnp.ones(x), jnp.ones(w))
    with pytest.raises(ValueError, match=r'must be \[A,D\], \[E,D,F\] and'):
        call(jnp.ones(sizes, jnp.int32))
