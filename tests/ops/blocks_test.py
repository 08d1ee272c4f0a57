"""The loops over row blocks, which are also taken without llvmlite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.ops import blocks
from tests.reference.compare import assert_close
from tests.reference.grouped import grouped_products, whole_numbers

D, F = 3, 5


@jax.jit
def products(x, w, sizes, dy):
    y = blocks.rows_times(x, w, sizes, transpose=False)
    dx = blocks.rows_times(dy, w, sizes, transpose=True)
    return y, dx, blocks.outer(x, dy, sizes)


@pytest.mark.parametrize(
    ('num_rows', 'sizes'),
    [
        (70, [20, 0, 30, 10]),  # 70/4/2 = 8 and so the least, 32 rows a block
        (70, [0, 33, 0, 32]),
        (70, [0, 0, 0, 0]),
        (2100, [1030, 1070]),  # 2100/2/2 = 525: the most, 512
        (2100, [127, 1973]),
    ],
)
def test_against_a_loop_over_rows(num_rows, sizes):
    sizes = np.array(sizes, np.int32)
    values = whole_numbers(num_rows, len(sizes), (D, F))
    x, w, dy = (jnp.asarray(v, jnp.float32) for v in values)
    # Exact inputs, whose products float32 sums without rounding.
    expected = grouped_products(x, w, sizes, dy)
    assert_close(products(x, w, sizes, dy), expected, 1e-7)


@pytest.mark.parametrize('junk', [np.nan, np.inf])
def test_rows_past_the_end_are_not_read(junk):
    sizes = np.array([20, 0, 9, 0], np.int32)
    x, w, dy = (jnp.asarray(v) for v in whole_numbers(70, 4, (D, F)))
    expected = grouped_products(x, w, sizes, dy)
    x, dy = x.at[29:].set(junk), dy.at[29:].set(junk)
    assert_close(products(x, w, sizes, dy), expected, 1e-7)


@pytest.mark.parametrize(
    ('num_rows', 'num_groups', 'rows'),
    [(70, 4, 32), (4096, 8, 256), (4097, 16, 128), (2100, 2, 512), (0, 3, 32)],
)
def test_rows_a_block(num_rows, num_groups, rows):
    # The power of two at or below half of num_rows / num_groups, 32 to 512.
    assert blocks.block_rows(num_rows, num_groups) == rows
