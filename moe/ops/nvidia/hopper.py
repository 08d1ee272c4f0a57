"""Grouped products on Hopper, as kernels in Pallas for its tensor cores.

A rows, E groups, K the width that is summed over, N the other one. A kernel is
one grid of as many blocks of threads as there are multiprocessors, each of
which takes one tile of the result after another: two warpgroups multiply, each
half of a tile's columns, while a third loads what comes next, of the next tile
too. Which tiles there are is computed on the device beforehand, from the sizes
of the groups, so that neither the program nor its time grows with E.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from moe.ops.blocks import starts_of
from moe.ops.nvidia import ring
from moe.ops.nvidia.ring import STEP, TRANSFORMS

# Rows of a tile, and its least columns, STEP for each of two warpgroups.
LEAST = 2 * STEP
# Rows that the loading unit counts by, since shared memory is in tiles of them.
ALIGNED = 8
# Rows of tiles that are taken column by column: so many read a matrix at once.
BAND = 16
_SHARED = 227 * 1024 - 1024  # bytes a block of threads can have, less barriers


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How a product is cut, in tiles of LEAST rows.

    Attributes:
      columns: columns of a tile, half of them for each warpgroup.
      stages: steps of STEP that are in shared memory at a time.
    """

    columns: int
    stages: int

    @classmethod
    def of(cls, width: int, buffers: int) -> 'Tiling':
        """The tiling of results of some width; `buffers` are for storing."""
        wide = math.ceil(width / 256) * 256 <= 1.15 * width
        columns = 256 if wide else LEAST
        size = 2 * STEP * (LEAST + columns)
        spare = _SHARED - buffers * 2 * 2 * STEP * STEP
        return cls(columns, min(6, spare // size))


def rows_times(xs, ws, group_sizes, transpose: bool, num_sms: int):
    """The sum of rows [A, K] times w[e] [K, N], or its transpose; [A, N].

    A tile is of rows of one group, and is stored by chunks of STEP rows and
    columns; of the first and the last chunk of a group only its own rows are.
    """
    num_rows = xs[0].shape[0]
    width = ws[0].shape[1] if transpose else ws[0].shape[2]
    xs = [_padded(x, {0: STEP, 1: STEP}, least=0) for x in xs]
    # Not below LEAST where it is the width of the result.
    least = 1 if transpose else 2
    ws = [_padded(w, {1: STEP, 2: STEP}, least=least) for w in ws]
    rows, out = xs[0].shape[0], ws[0].shape[1 if transpose else 2]
    tiles = tiles_of(group_sizes, rows, LEAST)
    y = plgpu.kernel(
        functools.partial(
            _rows_kernel,
            number=len(xs),
            tiling=Tiling.of(out, buffers=2),
            transpose=transpose,
        ),
        out_type=jax.ShapeDtypeStruct((rows, out), xs[0].dtype),
        kernel_name='moe_grouped_rows',
        **_LAUNCH,
        grid=(num_sms,),
    )(*tiles, *xs, *ws)[:num_rows, :width]
    filled = jnp.arange(num_rows) < jnp.sum(group_sizes)
    return jnp.where(filled[:, None], y, 0)


def outer(x, dy, group_sizes, num_sms: int):
    """`sum_a x[a] dy[a]^T` over the rows of each group, [E, D, F].

    The rows of a group are summed in steps of STEP; what the first and the last
    step read of other rows is set to 0 in shared memory.
    """
    (_, rows), columns = x.shape, dy.shape[1]
    x, dy = (_padded(v, {0: STEP, 1: STEP}, least=1) for v in (x, dy))
    tiling = Tiling.of(dy.shape[1], buffers=1)
    shape = (group_sizes.shape[0], x.shape[1], dy.shape[1])
    dw = plgpu.kernel(
        functools.partial(_outer_kernel, tiling=tiling),
        out_type=jax.ShapeDtypeStruct(shape, x.dtype),
        kernel_name='moe_grouped_outer',
        **_LAUNCH,
        grid=(num_sms,),
    )(starts_of(group_sizes), group_sizes, x, dy)
    return dw[:, :rows, :columns]


_LAUNCH: Any = {
    'grid_names': ('sm',),
    'num_threads': 3,
    'thread_name': 'wg',
    'compiler_params': plgpu.CompilerParams(
        lowering_semantics=plgpu.LoweringSemantics.Warpgroup
    ),
}


def tiles_of(group_sizes, num_rows: int, block: int):
    """The tiles of rows: (row, group, start, end of each; their number).

    A tile starts at a multiple of ALIGNED rows; of its rows those from `start`
    to `end` are the group's. There is room for `ceil(A / block) + E` tiles.
    Groups that promise more rows than there are end with the last row.
    """
    num_groups = group_sizes.shape[0]
    ends = jnp.minimum(jnp.cumsum(group_sizes), num_rows)
    starts = jnp.minimum(starts_of(group_sizes), num_rows)
    aligned = starts // ALIGNED * ALIGNED
    counts = (ends - aligned + block - 1) // block
    counts = jnp.where(ends > starts, counts, 0)
    last = jnp.cumsum(counts)
    # One more for a group than it fills: where it starts and ends.
    room = num_rows // block + 2 * num_groups
    index = jnp.arange(room, dtype=jnp.int32)
    group = jnp.searchsorted(last, index, side='right')
    group = jnp.minimum(group, num_groups - 1)
    row = aligned[group] + (index - (last - counts)[group]) * block
    row = jnp.minimum(row, max(num_rows - block, 0) // ALIGNED * ALIGNED)
    start = jnp.maximum(starts[group] - row, 0)
    end = jnp.minimum(ends[group] - row, block)
    tiles = (row, group, start, end, last[-1:])
    return [v.astype(jnp.int32) for v in tiles]


def _padded(x, multiples, least=None):
    """`x` with zeros up to multiples along axes; copied only if it must."""
    pads = [(0, 0)] * x.ndim
    for axis, multiple in multiples.items():
        wanted = -(-x.shape[axis] // multiple) * multiple
        if axis == least:
            wanted = max(wanted, LEAST)
        pads[axis] = (0, wanted - x.shape[axis])
    return jnp.pad(x, pads) if any(after for _, after in pads) else x


def _rows_kernel(
    rows, group, starts, ends, count, *refs, number, tiling, transpose
):
    xs, ws, y = refs[:number], refs[number:-1], refs[-1]
    columns, half = tiling.columns, tiling.columns // 2
    width = y.shape[1]
    num_columns = pl.cdiv(width, columns)
    depths = [x.shape[1] // STEP for x in xs]
    matrix = (columns, STEP) if transpose else (STEP, columns)

    @functools.partial(
        pl.run_scoped,
        memory=ring.memory(tiling.stages, (LEAST, STEP), matrix, y.dtype),
        whole=plgpu.SMEM((2, STEP, STEP), y.dtype, transforms=TRANSFORMS),
        part=plgpu.SMEM((2, STEP, STEP), y.dtype),
        collective_axes='wg',
    )
    def _(memory, whole, part):
        steps = ring.Ring(tiling.stages, **memory)
        wg = lax.axis_index('wg')
        each_tile = functools.partial(
            plgpu.nd_loop,
            (count[0] * num_columns,),
            collective_axes='sm',
            init_carry=jnp.int32(0),
        )

        def place(index):
            """The tile, its first row and its first column."""
            band = lax.div(index, BAND * num_columns)
            inside = index - band * BAND * num_columns
            height = lax.min(BAND, count[0] - band * BAND)
            column = lax.div(inside, height)
            tile = band * BAND + inside - column * height
            # The last tile is moved left to end where the matrix does.
            column = lax.min(column * columns, width - columns)
            row = pl.multiple_of(rows[tile], ALIGNED)
            return tile, row, pl.multiple_of(column, STEP)

        def load(info, carry):
            tile, row, column = place(info.index[0])
            cut = pl.ds(column, columns)
            for x, w, depth in zip(xs, ws, depths, strict=True):
                x_rows, matrix = x.at[pl.ds(row, LEAST)], w.at[group[tile]]

                @pl.loop(0, depth)
                def _(k, x=x_rows, matrix=matrix, first=carry):
                    deep = pl.ds(k * STEP, STEP)
                    at = (cut, deep) if transpose else (deep, cut)
                    steps.load(first + k, x.at[:, deep], matrix.at[at])

                carry = carry + depth
            return carry

        def compute(info, carry):
            tile, row, column = place(info.index[0])
            start, end = starts[tile], ends[tile]

            def product(_, x_smem, w_smem, acc):
                mine = pl.ds(wg * half, half)
                if transpose:
                    w_mine = w_smem.at[mine].transpose((1, 0))
                else:
                    w_mine = w_smem.at[:, mine]
                plgpu.wgmma(acc, x_smem, w_mine)

            @functools.partial(
                pl.run_scoped, acc=plgpu.ACC((LEAST, half), jnp.float32)
            )
            def _(acc):
                into = functools.partial(product, acc=acc)
                steps.multiply(carry, jnp.int32(sum(depths)), into)
                result = acc[...].astype(y.dtype)
                for i, j in _chunks(LEAST, half):
                    _store_mine(
                        result[i : i + STEP, j : j + STEP],
                        y.at[:, pl.ds(column + wg * half + j, STEP)],
                        row + i,
                        (lax.max(start - i, 0), lax.min(end - i, STEP)),
                        whole.at[wg],
                        part.at[wg],
                    )

            return carry + sum(depths)

        steps.run(wg, each_tile, load, compute)


def _chunks(rows, columns):
    return [
        (i, j) for i in range(0, rows, STEP) for j in range(0, columns, STEP)
    ]


def _store(chunk, target, row, smem):
    """Stores a chunk from a row of `target` on."""
    _put(chunk, smem)
    plgpu.copy_smem_to_gmem(smem, target.at[pl.ds(row, STEP)])


def _store_mine(chunk, target, row, mine, whole, part):
    """Stores the rows of a chunk from `mine[0]` up to `mine[1]`."""
    low, high = mine
    count = high - low

    @pl.when(count == STEP)
    def _():
        _store(chunk, target, row, whole)

    @pl.when((count > 0) & (count < STEP))
    def _():
        _put(chunk, part)
        # How many rows a copy has must be known beforehand.
        many = lax.div(count, ALIGNED)

        @pl.loop(0, many)
        def _(i):
            _copy(part, target, row, low + i * ALIGNED, ALIGNED)

        @pl.loop(low + many * ALIGNED, high)
        def _(i):
            _copy(part, target, row, i, 1)


def _copy(smem, target, row, start, count):
    plgpu.copy_smem_to_gmem(
        smem.at[pl.ds(start, count)], target.at[pl.ds(row + start, count)]
    )


def _put(chunk, smem):
    """Writes to shared memory what the next copy stores."""
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
    smem[...] = chunk
    plgpu.commit_smem()


def _outer_kernel(starts, sizes, x, dy, dw, *, tiling):
    columns, half = tiling.columns, tiling.columns // 2
    num_groups, height, width = dw.shape
    grid = (num_groups, pl.cdiv(width, columns), pl.cdiv(height, LEAST))

    @functools.partial(
        pl.run_scoped,
        memory=ring.memory(
            tiling.stages, (STEP, LEAST), (STEP, columns), dw.dtype
        ),
        whole=plgpu.SMEM((2, STEP, STEP), dw.dtype, transforms=TRANSFORMS),
        collective_axes='wg',
    )
    def _(memory, whole):
        steps = ring.Ring(tiling.stages, **memory)
        wg = lax.axis_index('wg')
        each_tile = functools.partial(
            plgpu.nd_loop,
            grid,
            collective_axes='sm',
            init_carry=jnp.int32(0),
        )

        def place(index):
            """The first row and column of a tile of a group's matrix."""
            _, j, i = index
            row = pl.multiple_of(lax.min(i * LEAST, height - LEAST), STEP)
            column = lax.min(j * columns, width - columns)
            return row, pl.multiple_of(column, STEP)

        def rows_of(group):
            """From where rows are loaded, those of others, and the steps."""
            start, size = starts[group], sizes[group]
            first = lax.div(start, ALIGNED) * ALIGNED
            before = start - first
            count = lax.div(before + size + STEP - 1, STEP)
            return first, before, lax.select(size > 0, count, 0)

        def load(info, carry):
            row, column = place(info.index)
            first, _, count = rows_of(info.index[0])

            @pl.loop(0, count)
            def _(k):
                at = pl.multiple_of(first + k * STEP, ALIGNED)
                deep = pl.ds(at, STEP)
                steps.load(
                    carry + k,
                    x.at[deep, pl.ds(row, LEAST)],
                    dy.at[deep, pl.ds(column, columns)],
                )

            return carry + count

        def compute(info, carry):
            group = info.index[0]
            row, column = place(info.index)
            _, before, count = rows_of(group)

            def product(index, x_smem, dy_smem, acc):
                low = before - index * STEP
                high = low + sizes[group]
                dy_mine = dy_smem.at[:, pl.ds(wg * half, half)]

                @pl.when((low > 0) | (high < STEP))
                def _():
                    # Both: rows of others times 0 are NaN if not finite.
                    _keep_rows(x_smem, low, high)
                    _keep_rows(dy_mine, low, high)
                    plgpu.commit_smem()

                plgpu.wgmma(acc, x_smem.transpose((1, 0)), dy_mine)

            @functools.partial(
                pl.run_scoped, acc=plgpu.ACC((LEAST, half), jnp.float32)
            )
            def _(acc):
                into = functools.partial(product, acc=acc)
                steps.multiply(carry, count, into)
                result = acc[...].astype(dw.dtype)
                target = dw.at[group]
                for a, b in _chunks(LEAST, half):
                    _store(
                        result[a : a + STEP, b : b + STEP],
                        target.at[:, pl.ds(column + wg * half + b, STEP)],
                        row + a,
                        whole.at[wg],
                    )

            return carry + count

        steps.run(wg, each_tile, load, compute)


def _keep_rows(smem, low, high):
    """Sets all rows but those from `low` up to `high` to 0."""
    row = plgpu.layout_cast(
        lax.broadcasted_iota(jnp.int32, smem.shape, 0), plgpu.Layout.WGMMA
    )
    kept = (row >= low) & (row < high)
    smem[...] = jnp.where(kept, smem[...], jnp.zeros((), smem.dtype))
