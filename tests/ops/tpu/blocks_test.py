"""Blocks of rows: every row between two of them once, and few beside."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

from moe.ops.tpu.blocks import blocks


@pytest.mark.parametrize(
    ('low', 'high'), [(0, 1024), (16, 16), (5, 6), (43, 992), (300, 1020)]
)
def test_rows_once(low, high):
    def kernel(out):
        out[...] = jnp.zeros_like(out)

        def once(rows, start):
            out[rows, :] += 1
            assert rows.size <= 256

        blocks(low, high, out.shape[0], once)

    shape = jax.ShapeDtypeStruct((1024, 128), jnp.int32)
    run = functools.partial(pl.pallas_call, out_shape=shape, interpret=True)
    found = np.asarray(run(kernel)())[:, 0]
    row = np.arange(1024)
    # From the multiple of 8 below the first, whole blocks of 16.
    start = low // 8 * 8
    length = -(-(high - start) // 16) * 16 if low < high else 0
    start = min(start, 1024 - length)
    want = (row >= start) & (row < start + length)
    np.testing.assert_array_equal(found, want)
