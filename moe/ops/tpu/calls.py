"""Grouped products on TPU, by kernels in Pallas.

A rows, E groups, K the width that is summed over, N the width of the results,
M the number of matrices of a group that read the same rows, or add up.

The grid visits every tile of rows once for each group that has rows in it; of
a tile only the group's own rows are multiplied, in blocks of at least `ROWS`.
Source of the visits: the grouped products of MegaBlocks, arXiv 2211.15841, as
in `jax.experimental.pallas.ops.tpu.megablox`, which multiplies whole tiles.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from moe.ops.tpu.tiles import (
    ROWS,
    Work,
    chip,
    executed,
    outer_bytes,
    outer_tiles,
    product_bytes,
    product_tiles,
)
from moe.ops.tpu.visits import visits_of

# Rows of the largest block that is multiplied at a time.
_BLOCK = 256


def products(
    x: Float[Array, 'A K'],
    ws: Sequence[Float[Array, 'E K N']],
    group_sizes: Int[Array, 'E'],
    *,
    interpret: bool = False,
) -> tuple[Float[Array, 'A N'], ...]:
    """Multiplies each group of rows with its own matrices, reading them once.

    `ys[m][a] = x[a] @ ws[m][e]` for the rows a of group e, and 0 for rows past
    the last group, which are not multiplied.

    Args:
      x: rows sorted by group, bfloat16.
      ws: M matrices a group, bfloat16.
      group_sizes: rows of each group, int32, their sum at most A.
      interpret: whether to run without a TPU, for tests.

    Returns:
      The M products, in the dtype of `x`, accumulated in float32.
    """
    terms = tuple(((0, m),) for m in range(len(ws)))
    return _products((x,), tuple(ws), group_sizes, terms, False, interpret)


def summed_products(
    xs: Sequence[Float[Array, 'A K']],
    ws: Sequence[Float[Array, 'E N K']],
    group_sizes: Int[Array, 'E'],
    *,
    interpret: bool = False,
) -> Float[Array, 'A N']:
    """Multiplies rows with transposed matrices, and adds the products.

    `y[a] = sum_m xs[m][a] @ ws[m][e]^T` for the rows a of group e, and 0 for
    rows past the last group: the gradient of `products` by `x`.

    Args:
      xs: M arrays of rows, each sorted by group, bfloat16.
      ws: M matrices a group, bfloat16.
      group_sizes: rows of each group, int32, their sum at most A.
      interpret: whether to run without a TPU, for tests.

    Returns:
      The sum, in the dtype of `xs`, accumulated in float32.
    """
    terms = (tuple((m, m) for m in range(len(ws))),)
    given = tuple(xs), tuple(ws)
    return _products(*given, group_sizes, terms, True, interpret)[0]


def _products(xs, ws, group_sizes, terms, transpose, interpret):
    """One result for each of `terms`, pairs of rows and matrices to add up."""
    num_rows, depth = xs[0].shape
    num_groups = len(ws[0])
    width = ws[0].shape[1 if transpose else 2]
    counts = len(xs), len(ws), len(terms)
    work = Work(num_rows, num_groups, depth, width, *counts)
    tiles = product_tiles(work)
    rest = num_rows - jnp.sum(group_sizes)
    sizes = jnp.append(group_sizes, rest).astype(jnp.int32)
    visits = visits_of(sizes, num_rows, tiles.rows, empty=False)
    steps = depth // tiles.inner
    block = (tiles.outer, tiles.inner) if transpose else tiles[1:]

    def weights(n, v, k, group, *_):
        place = (n, k) if transpose else (k, n)
        return jnp.minimum(group[v], num_groups - 1), *place

    rows = pl.BlockSpec(
        tiles[:2], lambda n, v, k, group, tile, *_: (tile[v], k)
    )
    results = pl.BlockSpec(
        (tiles.rows, tiles.outer),
        lambda n, v, k, group, tile, *_: (tile[v], n),
    )
    sums = pltpu.VMEM((tiles.rows, tiles.outer), jnp.float32)
    call = pl.pallas_call(
        functools.partial(
            _multiply,
            terms=terms,
            counts=counts,
            num_groups=num_groups,
            transpose=transpose,
            steps=steps,
        ),
        out_shape=[
            jax.ShapeDtypeStruct((num_rows, width), xs[0].dtype) for _ in terms
        ],
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(visits),
            grid=(width // tiles.outer, len(visits.group), steps),
            in_specs=[
                *(rows for _ in xs),
                *(pl.BlockSpec((None, *block), weights) for _ in ws),
            ],
            out_specs=[results for _ in terms],
            scratch_shapes=[sums for _ in terms if steps > 1],
        ),
        compiler_params=_parameters('parallel', 'arbitrary', 'arbitrary'),
        cost_estimate=_estimate(work, product_bytes(work, tiles)),
        interpret=interpret,
        name='grouped_products',
    )
    return tuple(call(*visits, *xs, *ws))


def outer_products(
    x: Float[Array, 'A K'],
    dys: Sequence[Float[Array, 'A N']],
    group_sizes: Int[Array, 'E'],
    *,
    interpret: bool = False,
) -> tuple[Float[Array, 'E K N'], ...]:
    """Sums the outer products of each group's rows.

    `outs[m][e] = sum_a x[a] dys[m][a]^T` over the rows a of group e: the
    gradient of `products` by `ws`.

    Args:
      x: rows sorted by group, bfloat16.
      dys: M arrays of as many rows, bfloat16.
      group_sizes: rows of each group, int32, their sum at most A.
      interpret: whether to run without a TPU, for tests.

    Returns:
      The M sums, in the dtype of `x`, accumulated in float32.
    """
    num_rows, depth = x.shape
    width, num_groups = dys[0].shape[1], len(group_sizes)
    work = Work(num_rows, num_groups, depth, width, 1, len(dys), len(dys))
    tiles = outer_tiles(work)
    sizes = group_sizes.astype(jnp.int32)
    visits = visits_of(sizes, num_rows, tiles.rows, empty=True)
    of_x = pl.BlockSpec(
        tiles[:2], lambda k, n, v, group, tile, *_: (tile[v], k)
    )
    of_dy = pl.BlockSpec(
        (tiles.rows, tiles.outer),
        lambda k, n, v, group, tile, *_: (tile[v], n),
    )
    results = pl.BlockSpec(
        (None, *tiles[1:]), lambda k, n, v, group, *_: (group[v], k, n)
    )
    shape = jax.ShapeDtypeStruct((num_groups, depth, width), x.dtype)
    call = pl.pallas_call(
        functools.partial(_sum_outer, count=len(dys)),
        out_shape=[shape for _ in dys],
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(visits),
            grid=(
                depth // tiles.inner,
                width // tiles.outer,
                len(visits.group),
            ),
            in_specs=[of_x, *(of_dy for _ in dys)],
            out_specs=[results for _ in dys],
            scratch_shapes=[pltpu.VMEM(tiles[1:], jnp.float32) for _ in dys],
        ),
        compiler_params=_parameters('parallel', 'parallel', 'arbitrary'),
        cost_estimate=_estimate(work, outer_bytes(work, tiles)),
        interpret=interpret,
        name='grouped_outer',
    )
    return tuple(call(*visits, x, *dys))


def _parameters(*semantics: Any) -> pltpu.CompilerParams:
    return pltpu.CompilerParams(
        dimension_semantics=semantics, vmem_limit_bytes=chip()[0] * 7 // 8
    )


def _estimate(work: Work, moved: float) -> pl.CostEstimate:
    return pl.CostEstimate(
        flops=int(executed(work)), bytes_accessed=int(moved), transcendentals=0
    )


def _multiply(
    group,
    tile,
    first,
    last,
    *refs,
    terms,
    counts,
    num_groups,
    transpose,
    steps,
):
    """Multiplies the rows of a visit, and writes what its last step adds up.

    Args:
      group: group of each visit, see `moe.ops.tpu.visits`.
      tile: tile of each visit.
      first: first row of each visit.
      last: row after the last of each visit.
      *refs: tiles of rows, of matrices and of results, and float32 sums.
      terms: of each result the pairs of rows and matrices to add up.
      counts: numbers of arrays of rows, of matrices and of results.
      num_groups: E.
      transpose: whether the matrices are transposed.
      steps: number of tiles of the width that is summed over.
    """
    visit, step = pl.program_id(1), pl.program_id(2)
    low, high = first[visit], last[visit]
    numbers = (((1,), (1 if transpose else 0,)), ((), ()))
    ends = tuple(itertools.accumulate(counts))
    xs, ws, ys = (
        refs[end - count : end] for end, count in zip(ends, counts, strict=True)
    )
    sums = refs[ends[-1] :]

    def write(y, rows, start, value):
        row = start + lax.broadcasted_iota(jnp.int32, value.shape, 0)
        mine = (row >= low) & (row < high)
        old = y[rows, :].astype(jnp.float32)
        y[rows, :] = jnp.where(mine, value, old).astype(y.dtype)

    def block(rows, start):
        for m, (y, pairs) in enumerate(zip(ys, terms, strict=True)):
            value = sum(
                lax.dot_general(
                    xs[i][rows, :],
                    ws[j][...],
                    numbers,
                    preferred_element_type=jnp.float32,
                )
                for i, j in pairs
            )
            if steps == 1:
                write(y, rows, start, value)
            else:
                add(sums[m], y, rows, start, value)

    def add(total, y, rows, start, value):
        @pl.when(step == 0)
        def _():
            total[rows, :] = value

        @pl.when(step > 0)
        def _():
            total[rows, :] += value

        @pl.when(step == steps - 1)
        def _():
            write(y, rows, start, total[rows, :])

    full = group[visit] < num_groups
    _blocks(low, jnp.where(full, high, low), xs[0].shape[0], block)

    @pl.when(jnp.logical_not(full))
    def _():
        for y in ys:
            write(y, slice(None), 0, jnp.zeros(y.shape, jnp.float32))


def _sum_outer(group, tile, first, last, x, *refs, count):
    """Adds the outer products of a visit's rows, and writes the group's sum.

    Args:
      group: group of each visit, see `moe.ops.tpu.visits`.
      tile: tile of each visit.
      first: first row of each visit.
      last: row after the last of each visit.
      x: tile of rows.
      *refs: tiles of `count` other arrays of rows, of results, and sums.
      count: number of results.
    """
    """Adds the outer products of a visit's rows, and writes the group's sum.

    Args:
      group: group of each visit, see `moe.ops.tpu.visits`.
      tile: tile of each visit.
      first: first row of each visit.
      last: row after the last of each visit.
      x: tile of rows.
      *refs: tiles of `count` other arrays of rows, of results, and sums.
      count: number of results.
    """
    dys, outs, totals = (refs[i * count : (i + 1) * count] for i in range(3))
    visit = pl.program_id(2)
    end = pl.num_programs(2) - 1
    before = group[jnp.maximum(visit - 1, 0)]
    after = group[jnp.minimum(visit + 1, end)]
    low, high = first[visit], last[visit]

    @pl.when((visit == 0) | (before != group[visit]))
    def _():
        for total in totals:
            total[...] = jnp.zeros_like(total)

    def own(array, rows, start):
        value = array[rows, :].astype(jnp.float32)
        row = start + lax.broadcasted_iota(jnp.int32, value.shape, 0)
        mine = (row >= low) & (row < high)
        return jnp.where(mine, value, 0).astype(array.dtype)

    def block(rows, start):
        # Both: an infinite row of the next group times 0 is NaN.
        left = own(x, rows, start)
        for dy, total in zip(dys, totals, strict=True):
            total[...] += lax.dot_general(
                left,
                own(dy, rows, start),
                (((0,), (0,)), ((), ())),
                preferred_element_type=jnp.float32,
            )

    _blocks(low, high, x.shape[0], block)

    @pl.when((visit == end) | (after != group[visit]))
    def _():
        for out, total in zip(outs, totals, strict=True):
            out[...] = total[...].astype(out.dtype)


def _blocks(low, high, tile, run):
    """Runs on the rows from low to high, in blocks of powers of two rows.

    As many of the largest as there are, then one at most of each smaller size,
    at least `ROWS`; all start at multiples of it.
    """
    start = low - lax.rem(low, ROWS)  # `//` asks which TPU it is compiled for
    stop = high + ROWS - 1
    length = jnp.where(high > low, stop - lax.rem(stop, ROWS) - start, 0)

    def at(offset, size):
        row = pl.multiple_of(start + offset, ROWS)
        run(pl.ds(row, size), row)

    size = min(_BLOCK, 1 << (tile.bit_length() - 1))
    largest = lambda i, _, size=size: at(i * size, size)
    lax.fori_loop(0, lax.div(length, size), largest, None)
    size //= 2
    while size >= ROWS:
        # Before it go the larger blocks of this length.
        before = length & ~(2 * size - 1)
        pl.when((length & size) != 0)(functools.partial(at, before, size))
        size //= 2
