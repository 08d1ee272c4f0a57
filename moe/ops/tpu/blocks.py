"""Blocks of rows that are multiplied at a time, and what kernels are given."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from moe.ops.tpu.tiles import BLOCK, ROWS, Work, chip, executed


def blocks(
    low: Any, high: Any, tile: int, run: Callable[[Any, Any], None]
) -> None:
    """Runs on the rows from low to high, in blocks of powers of two rows.

    As many of the largest as there are, then one at most of each smaller size,
    at least `ROWS`; all start at multiples of it.

    Args:
      low: the first row, int32.
      high: the row after the last, int32.
      tile: rows of the tile that has them.
      run: is called with a block and its first row.
    """
    start = low - lax.rem(low, ROWS)  # `//` asks which TPU it is compiled for
    stop = high + ROWS - 1
    length = jnp.where(high > low, stop - lax.rem(stop, ROWS) - start, 0)

    def at(offset, size):
        row = pl.multiple_of(start + offset, ROWS)
        run(pl.ds(row, size), row)

    size = min(BLOCK, 1 << (tile.bit_length() - 1))
    largest = lambda i, _, size=size: at(i * size, size)
    lax.fori_loop(0, lax.div(length, size), largest, None)
    size //= 2
    while size >= ROWS:
        # Before it go the larger blocks of this length.
        before = length & ~(2 * size - 1)
        pl.when((length & size) != 0)(functools.partial(at, before, size))
        size //= 2


def parameters(*semantics: Any) -> pltpu.CompilerParams:
    """Returns the parameters of a kernel.

    Args:
      *semantics: of each axis of its grid, 'parallel' or 'arbitrary'.
    """
    return pltpu.CompilerParams(
        dimension_semantics=semantics, vmem_limit_bytes=chip()[0] * 15 // 16
    )


def estimate(work: Work, moved: float) -> pl.CostEstimate:
    """Returns what a kernel states of its work.

    Args:
      work: the products.
      moved: bytes that it reads and writes.
    """
    return pl.CostEstimate(
        flops=int(executed(work)), bytes_accessed=int(moved), transcendentals=0
    )
