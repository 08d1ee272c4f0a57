"""Products of groups of rows on TPU, by a kernel in Pallas.

A rows, E groups, K the width that is summed over, N the width of the results,
M the number of matrices of a group that read the same rows, or add up.

Each core takes a range of blocks of rows. The rows of a block (if all of K fits
on the chip), or its sums (if not), stay on the chip while the matrices of the
groups that have rows in it go by; of a block only a group's own rows are
multiplied with its matrices, at least `ROWS` at a time.
Source of the visits: the grouped products of MegaBlocks, arXiv 2211.15841, as
in `jax.experimental.pallas.ops.tpu.megablox`, which multiplies whole tiles.
"""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from moe.ops.tpu import order
from moe.ops.tpu.blocks import blocks, estimate, parameters
from moe.ops.tpu.tiles import (
    Tiles,
    Work,
    cores_of,
    product_bytes,
    product_tiles,
)

# Numbers that are known before the kernel: of visits, and the order of them.
_PREFETCHED = 8


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
    width = ws[0].shape[1 if transpose else 2]
    counts = len(xs), len(ws), len(terms)
    work = Work(num_rows, len(ws[0]), depth, width, *counts)
    tiles = product_tiles(work)
    parts, columns = depth // tiles.inner, width // tiles.outer
    places = parts * columns
    scalars, cores = _scalars(work, tiles, group_sizes)
    bounds = scalars[-1]

    def where(core, step, refs):
        tile, found = refs[2], order.Order(*refs[5:_PREFETCHED])
        visit, place, _ = order.at(found, core, step, places)
        return visit, tile[visit], lax.div(place, parts), lax.rem(place, parts)

    def rows(core, step, *refs):
        _, tile, _, part = where(core, step, refs)
        return tile, part

    def matrices(core, step, *refs):
        group, held, size = refs[0], refs[1], refs[6]
        visit, _, column, part = where(core, step, refs)
        # Rows past the last group need none: those that are there.
        none = (group[visit] == work.groups) & (size[visit] == 1)
        column = jnp.where(none, columns - 1, column)
        part = jnp.where(none, parts - 1, part)
        return held[visit], *((column, part) if transpose else (part, column))

    def results(core, step, *refs):
        _, tile, column, _ = where(core, step, refs)
        return tile, column

    # Rows that stay have nothing after them to load meanwhile.
    staying = pl.Buffered(1) if parts == 1 < columns else None
    block = (tiles.outer, tiles.inner) if transpose else tiles[1:]
    of_rows = pl.BlockSpec(tiles[:2], rows, pipeline_mode=staying)
    of_results = pl.BlockSpec((tiles.rows, tiles.outer), results)
    sums = pltpu.VMEM((tiles.rows, tiles.outer), jnp.float32)
    call = pl.pallas_call(
        functools.partial(
            _multiply,
            terms=terms,
            counts=counts,
            num_groups=work.groups,
            transpose=transpose,
            parts=parts,
            places=places,
        ),
        out_shape=[
            jax.ShapeDtypeStruct((num_rows, width), xs[0].dtype) for _ in terms
        ],
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(scalars),
            grid=(cores, jnp.max(bounds[1:] - bounds[:-1]) * places),
            in_specs=[
                *(of_rows for _ in xs),
                *(pl.BlockSpec((None, *block), matrices) for _ in ws),
            ],
            out_specs=[of_results for _ in terms],
            scratch_shapes=[sums for _ in terms if parts > 1],
        ),
        compiler_params=parameters('parallel', 'arbitrary'),
        cost_estimate=estimate(work, product_bytes(work, tiles)),
        interpret=interpret,
        name='grouped_products',
    )
    return tuple(call(*scalars, *xs, *ws))


def _scalars(work: Work, tiles: Tiles, group_sizes: Int[Array, 'E']):
    """What kernels know of visits and their order, and the number of cores."""
    used = jnp.sum(group_sizes)
    sizes = jnp.append(group_sizes, work.rows - used).astype(jnp.int32)
    found = order.visits_of(
        sizes, work.rows, tiles.rows, align=tiles.rows, empty=False
    )
    tile = found.row // tiles.rows
    # Cores share the tiles that have rows, and each has at least one.
    cores, there = cores_of(work, tiles), -(-work.rows // tiles.rows)
    filled = -(-used // tiles.rows)
    core = jnp.arange(1, cores)
    splits = jnp.clip(-(-filled * core // cores), core, there - cores + core)
    last = jnp.max(jnp.where(group_sizes > 0, jnp.arange(work.groups), 0))
    matrices = jnp.minimum(found.group, last)
    visits = found.group, matrices, tile, found.first, found.last
    orders = order.order_of(tile, found.number, splits)
    return [a.astype(jnp.int32) for a in (*visits, *orders)], cores


def _multiply(
    *refs,
    terms,
    counts,
    num_groups,
    transpose,
    parts,
    places,
):
    """Multiplies the rows of a visit, and writes what its last part adds up.

    Args:
      *refs: of visits the group, the matrices, the tile, first and last row;
        the order; tiles of rows, of matrices and of results; float32 sums.
      terms: of each result the pairs of rows and matrices to add up.
      counts: numbers of arrays of rows, of matrices and of results.
      num_groups: E.
      transpose: whether the matrices are transposed.
      parts: number of tiles of the width that is summed over.
      places: number of tiles of a matrix.
    """
    known, refs = refs[:_PREFETCHED], refs[_PREFETCHED:]
    group, _, _, first, last, *orders = known
    core, step = pl.program_id(0), pl.program_id(1)
    visit, place, busy = order.at(order.Order(*orders), core, step, places)
    part = lax.rem(place, parts)
    low, high = first[visit], jnp.where(busy, last[visit], first[visit])
    numbers = (((1,), (1 if transpose else 0,)), ((), ()))
    ends = tuple(itertools.accumulate(counts))
    xs, ws, ys = (
        refs[end - count : end] for end, count in zip(ends, counts, strict=True)
    )
    sums = refs[ends[-1] :]

    def put(where, rows, start, value):
        """Replaces the group's own rows."""
        row = start + lax.broadcasted_iota(jnp.int32, value.shape, 0)
        mine = (row >= low) & (row < high)
        old = where[rows, :].astype(jnp.float32)
        where[rows, :] = jnp.where(mine, value, old).astype(where.dtype)

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
            if parts == 1:
                put(y, rows, start, value)
            else:
                add(sums[m], y, rows, start, value)

    def add(total, y, rows, start, value):
        @pl.when(part == 0)
        def _():
            put(total, rows, start, value)

        @pl.when(part > 0)
        def _():
            put(total, rows, start, total[rows, :] + value)

        @pl.when(part == parts - 1)
        def _():
            put(y, rows, start, total[rows, :])

    def clear(rows, start):
        for y in ys:
            put(y, rows, start, jnp.zeros(y[rows, :].shape, jnp.float32))

    tile, full = ys[0].shape[0], group[visit] < num_groups
    blocks(low, jnp.where(full, high, low), tile, block)
    blocks(low, jnp.where(full, low, high), tile, clear)
