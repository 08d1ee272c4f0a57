"""Blocks of rows that are multiplied at a time, and what kernels are given."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from moe.ops.tpu.tiles import ALIGN, BLOCK, ROWS, Work, chip, executed


def blocks(
    low: Any, high: Any, tile: int, run: Callable[[Any, Any], None]
) -> None:
    """Runs on the rows from low to high, in blocks of rows.

    As many of the largest as there are, one of half as many if that fits, and
    one of what is left: matrices are loaded for every block, and sums over rows
    take 128 of them at a time. Blocks are multiples of `ROWS`, and start at
    multiples of `ALIGN`.

    Args:
      low: the first row, int32.
      high: the row after the last, int32.
      tile: rows of the tile that has them.
      run: is called with a block and its first row.
    """
    start = low - lax.rem(low, ALIGN)  # `//` asks which TPU it is compiled for
    length = high + ROWS - 1 - start
    length = jnp.where(high > low, length - lax.rem(length, ROWS), 0)
    start = jnp.minimum(start, tile - length)

    def at(offset, size):
        row = pl.multiple_of(start + offset, ALIGN)
        run(pl.ds(row, size), row)

    size = min(BLOCK, 1 << (tile.bit_length() - 1))
    largest = lambda i, _, size=size: at(i * size, size)
    lax.fori_loop(0, lax.div(length, size), largest, None)
    half = size // 2
    pl.when((length & half) != 0)(lambda: at(length & -size, half))
    for rest in range(ROWS, half, ROWS):
        alone = (length & (half - 1)) == rest
        pl.when(alone)(functools.partial(at, length & -half, rest))


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
