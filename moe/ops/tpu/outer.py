"""Sums of outer products of groups of rows on TPU, by a kernel in Pallas.

A rows, E groups, K and N the widths of the results, M the number of results.

A group's rows are brought to the chip as they are, in pieces that start at the
group's first row; while the tiles of its sums go by, the rows of one operand
stay, and those of the other come column by column.
"""

import functools
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
    ROWS,
    Work,
    outer_bytes,
    outer_cores,
    outer_tiles,
)

# Numbers that are known before the kernel: of visits, and the order of them.
_PREFETCHED = 7


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
    if num_rows % ROWS:  # rows are brought in blocks of so many
        more = [(0, -num_rows % ROWS), (0, 0)]
        x, *dys = (jnp.pad(rows, more) for rows in (x, *dys))
    sizes = group_sizes.astype(jnp.int32)
    found = order.visits_of(sizes, num_rows, tiles.rows, align=ROWS, empty=True)
    orders = order.order_of(found.group, found.number, jnp.zeros(0, jnp.int32))
    scalars = [a.astype(jnp.int32) for a in (*found[:4], *orders)]
    cores, axis = outer_cores(work, tiles)
    counts = depth // tiles.inner, width // tiles.outer
    mine = tuple(n // cores if i == axis else n for i, n in enumerate(counts))
    places = mine[0] * mine[1]

    def place_of(core, step, refs):
        found = order.Order(*refs[4:_PREFETCHED])
        visit, place, busy = order.at(found, 0, step, places)
        at = [lax.div(place, mine[1]), lax.rem(place, mine[1])]
        if axis is not None:
            at[axis] += core * mine[axis]
        return visit, at[0], at[1], busy

    def results(core, step, *refs):
        visit, i, j, _ = place_of(core, step, refs)
        return refs[0][visit], i, j

    everywhere = pl.BlockSpec(memory_space=pltpu.HBM)
    shape = jax.ShapeDtypeStruct((num_groups, depth, width), x.dtype)
    columns = len(dys) * tiles.outer
    call = pl.pallas_call(
        functools.partial(_sum_outer, count=len(dys), place_of=place_of),
        out_shape=[shape for _ in dys],
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(scalars),
            grid=(cores, found.number * places),
            in_specs=[everywhere for _ in (x, *dys)],
            out_specs=[pl.BlockSpec((None, *tiles[1:]), results) for _ in dys],
            scratch_shapes=[
                pltpu.VMEM((2, tiles.rows, tiles.inner), x.dtype),
                pltpu.VMEM((2, tiles.rows, columns), x.dtype),
                pltpu.VMEM((tiles.inner, columns), jnp.float32),
                pltpu.SMEM((4,), jnp.int32),
                pltpu.SemaphoreType.DMA((2,)),
                pltpu.SemaphoreType.DMA((2,)),
            ],
        ),
        compiler_params=parameters('parallel', 'arbitrary'),
        cost_estimate=estimate(work, outer_bytes(work, tiles)),
        interpret=interpret,
        name='grouped_outer',
    )
    return tuple(call(*scalars, x, *dys))


def _sum_outer(*refs, count, place_of):
    """Adds the outer products of a visit's rows, and writes the group's sum.

    Args:
      *refs: of visits the group, first row of the piece, the group's first and
        last row in it; the order; x; the `count` other arrays and results;
        pieces of rows of x and of the others, two of each; float32 sums; which
        pieces are in use and which are new; semaphores.
      count: number of results.
      place_of: returns the visit, the tile and whether there is one, of a core
        and a step.
    """
    known, refs = refs[:_PREFETCHED], refs[_PREFETCHED:]
    _, row, first, last, start, size, _ = known
    given, outs = refs[: 1 + count], refs[1 + count : 1 + 2 * count]
    x_rows, y_rows, total, state, x_ready, y_ready = refs[1 + 2 * count :]
    inner, outer = outs[0].shape
    core, step = pl.program_id(0), pl.program_id(1)
    visit, i, j, _ = place_of(core, step, known)

    def copies(visit, column, which, slot, run):
        """Runs on the copies of a piece to one of its two places."""

        def block(rows, at):
            begin = pl.multiple_of(row[visit] + at, ROWS)
            for m, source in enumerate(given[1:] if which else given[:1]):
                wide = outer if which else inner
                there, ready = (y_rows, y_ready) if which else (x_rows, x_ready)
                at_column = pl.multiple_of(column * wide, wide)
                run(
                    pltpu.make_async_copy(
                        source.at[
                            pl.ds(begin, rows.size), pl.ds(at_column, wide)
                        ],
                        there.at[slot, rows, pl.ds(m * wide, wide)],
                        ready.at[slot],
                    )
                )

        empty = first[visit] == last[visit]
        low = jnp.where(empty, last[visit], 0)
        blocks(low, last[visit], x_rows.shape[1], block)

    def own(rows_of, slot):
        """Clears the rows of other groups: an infinite one times 0 is NaN."""
        # Blocks start with the first one, and end with the last one, or after.
        tall = min(2 * ROWS, rows_of.shape[1])
        end = jnp.maximum(last[visit] - 1, 0)
        end = jnp.minimum(end - lax.rem(end, ROWS), rows_of.shape[1] - tall)
        for at in (0, pl.multiple_of(end, ROWS)):
            rows = pl.ds(at, tall)
            value = rows_of[slot, rows, :].astype(jnp.float32)
            index = at + lax.broadcasted_iota(jnp.int32, value.shape, 0)
            mine = (index >= first[visit]) & (index < last[visit])
            value = jnp.where(mine, value, 0).astype(rows_of.dtype)
            rows_of[slot, rows, :] = value

    pieces = (0, i, x_rows), (1, j, y_rows)

    @pl.when(step == 0)
    def _():
        for which, column, _ in pieces:
            state[which] = 0
            state[2 + which] = 1
            copies(visit, column, which, 0, lambda copy: copy.start())

    for which, column, rows_of in pieces:
        # Which of the two it is in: the other one if it is new.
        new = (state[2 + which] == 1) & (step > 0)
        state[which] = jnp.where(new, 1 - state[which], state[which])

        @pl.when(state[2 + which] == 1)
        def _(which=which, column=column, rows_of=rows_of):
            slot = state[which]
            copies(visit, column, which, slot, lambda copy: copy.wait())
            own(rows_of, slot)

    # What the next step needs is brought meanwhile.
    following, *columns, more = place_of(core, step + 1, known)
    for (which, column, _), then in zip(pieces, columns, strict=True):
        new = more & ((following != visit) | (then != column))
        state[2 + which] = new.astype(jnp.int32)

        @pl.when(new)
        def _(which=which, then=then):
            slot = 1 - state[which]
            copies(following, then, which, slot, lambda copy: copy.start())

    @pl.when(visit == start[visit])
    def _():
        total[...] = jnp.zeros_like(total)

    def block(rows, _):
        total[...] += lax.dot_general(
            x_rows[state[0], rows, :],
            y_rows[state[1], rows, :],
            (((0,), (0,)), ((), ())),
            preferred_element_type=jnp.float32,
        )

    blocks(first[visit], last[visit], x_rows.shape[1], block)

    @pl.when(visit == start[visit] + size[visit] - 1)
    def _():
        for m, out in enumerate(outs):
            columns = slice(m * outer, (m + 1) * outer)
            out[...] = total[:, columns].astype(out.dtype)
