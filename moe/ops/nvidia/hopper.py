"""Grouped products on Hopper, as kernels in Pallas for its tensor cores.

A rows, E groups, K the width that is summed over, N the other one. A kernel is
one grid of as many blocks of threads as there are multiprocessors, each of
which takes one tile of the result after another: two warpgroups multiply, each
half of a tile's columns, while a third loads what comes next. Which tiles there
are is computed on the device beforehand, from the sizes of the groups, so that
neither the program nor its time grows with E.
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

# Numbers of 16 bits in the 128 bytes that shared memory is swizzled by: the
# least width, the depth of a step and the side of what is stored at a time.
STEP = 64
# The least columns of a tile, STEP for each of two warpgroups.
LEAST = 2 * STEP
# Rows that the loading unit counts by, since shared memory is in tiles of them.
ALIGNED = 8
_SHARED = 227 * 1024 - 1024  # bytes a block of threads can have, less barriers
_TRANSFORMS = (
    plgpu.TilingTransform((ALIGNED, STEP)),
    plgpu.SwizzleTransform(128),
)


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How a product is cut.

    Attributes:
      rows: rows of a tile.
      columns: columns of a tile, half of them for each warpgroup.
      stages: steps of STEP that are in shared memory at a time.
    """

    rows: int
    columns: int
    stages: int

    @classmethod
    def of(cls, rows: int, width: int, buffers: int) -> 'Tiling':
        """The tiling of results of some width; `buffers` are for storing."""
        wide = math.ceil(width / 256) * 256 <= 1.15 * width
        columns = 256 if wide else LEAST
        size = 2 * STEP * (rows + columns)
        spare = _SHARED - buffers * 2 * 2 * STEP * STEP
        return cls(rows, columns, min(6, spare // size))


def rows_times(x, w, group_sizes, transpose: bool, num_sms: int):
    """Rows [A, K] times w[e] [K, N], or its transpose; [A, N].

    A tile is of rows of one group, and is stored by chunks of STEP rows and
    columns; of the first and the last chunk of a group only its own rows are.
    """
    num_rows, num_groups = x.shape[0], w.shape[0]
    width = w.shape[1] if transpose else w.shape[2]
    x = _padded(x, {0: STEP, 1: STEP})
    # Not below LEAST where it is the width of the result.
    w = _padded(w, {1: STEP, 2: STEP}, least=1 if transpose else 2)
    block = 2 * STEP if num_rows >= 96 * num_groups else STEP
    block = min(block, x.shape[0])
    tiles = tiles_of(group_sizes, x.shape[0], block)
    out = w.shape[1] if transpose else w.shape[2]
    tiling = Tiling.of(block, out, buffers=2)
    y = plgpu.kernel(
        functools.partial(_rows_kernel, tiling=tiling, transpose=transpose),
        out_type=jax.ShapeDtypeStruct((x.shape[0], out), x.dtype),
        kernel_name='moe_grouped_rows',
        **_LAUNCH,
        grid=(num_sms,),
    )(*tiles, x, w)[:num_rows, :width]
    filled = jnp.arange(num_rows) < jnp.sum(group_sizes)
    return jnp.where(filled[:, None], y, 0)


def outer(x, dy, group_sizes, num_sms: int):
    """`sum_a x[a] dy[a]^T` over the rows of each group, [E, D, F].

    The rows of a group are summed in steps of STEP; what the first and the last
    step read of other rows is set to 0 in shared memory.
    """
    (_, rows), columns = x.shape, dy.shape[1]
    x, dy = (_padded(v, {0: STEP, 1: STEP}, least=1) for v in (x, dy))
    tiling = Tiling.of(2 * STEP, dy.shape[1], buffers=1)
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


def _pipeline(body, context, tiling, steps, specs):
    return plgpu.emit_pipeline_warp_specialized(
        body,
        grid=(steps,),
        memory_registers=40,
        in_specs=[
            plgpu.BlockSpec(shape, index, transforms=_TRANSFORMS)
            for shape, index in specs
        ],
        wg_axis='wg',
        num_compute_wgs=2,
        max_concurrent_steps=tiling.stages,
        compute_context=context,
    )


def _no(*_, **__):
    """For a pipeline of which only the allocations are asked."""


def _rows_kernel(
    rows, group, starts, ends, count, x, w, y, *, tiling, transpose
):
    block, columns = tiling.rows, tiling.columns
    half = columns // 2
    width = y.shape[1]
    num_columns = pl.cdiv(width, columns)
    matrix = (columns, STEP) if transpose else (STEP, columns)
    pipeline = functools.partial(
        _pipeline,
        tiling=tiling,
        steps=x.shape[1] // STEP,
        specs=[
            ((block, STEP), lambda k: (0, k)),
            (matrix, (lambda k: (0, k)) if transpose else (lambda k: (k, 0))),
        ],
    )

    @functools.partial(
        pl.run_scoped,
        allocations=pipeline(_no, _no).get_allocations(x, w.at[0]),
        whole=plgpu.SMEM((2, STEP, STEP), y.dtype, transforms=_TRANSFORMS),
        part=plgpu.SMEM((2, STEP, STEP), y.dtype),
        collective_axes='wg',
    )
    def _(allocations, whole, part):
        wg = lax.axis_index('wg')

        @plgpu.nd_loop((count[0] * num_columns,), collective_axes='sm')
        def _(info):
            (index,) = info.index
            tile = lax.div(index, num_columns)
            row = pl.multiple_of(rows[tile], ALIGNED)
            start, end = starts[tile], ends[tile]
            # The last tile is moved left to end where the matrix does.
            column = lax.rem(index, num_columns) * columns
            column = lax.min(column, width - columns)
            column = pl.multiple_of(column, STEP)

            def multiply(_, x_smem, w_smem, acc):
                mine = pl.ds(wg * half, half)
                if transpose:
                    w_mine = w_smem.at[mine].transpose((1, 0))
                else:
                    w_mine = w_smem.at[:, mine]
                plgpu.wgmma(acc, x_smem, w_mine)
                plgpu.wgmma_wait(0)
                return acc

            def compute(run):
                @functools.partial(
                    pl.run_scoped, acc=plgpu.ACC((block, half), jnp.float32)
                )
                def _(acc):
                    run(acc)
                    result = acc[...].astype(y.dtype)
                    for i, j in _chunks(block, half):
                        _store_mine(
                            result[i : i + STEP, j : j + STEP],
                            y.at[:, pl.ds(column + wg * half + j, STEP)],
                            row + i,
                            (lax.max(start - i, 0), lax.min(end - i, STEP)),
                            whole.at[wg],
                            part.at[wg],
                        )

            matrix = w.at[group[tile]]
            cut = pl.ds(column, columns)
            pipeline(multiply, compute)(
                x.at[pl.ds(row, block)],
                matrix.at[cut] if transpose else matrix.at[:, cut],
                allocations=allocations,
            )

    plgpu.wait_smem_to_gmem(0, wait_read_only=True)


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
    block, columns = tiling.rows, tiling.columns
    half = columns // 2
    num_groups, height, width = dw.shape
    grid = (num_groups, pl.cdiv(height, block), pl.cdiv(width, columns))
    pipeline = functools.partial(
        _pipeline,
        tiling=tiling,
        specs=[
            ((STEP, block), lambda k: (k, 0)),
            ((STEP, columns), lambda k: (k, 0)),
        ],
    )
    # More steps than are at a time: the allocations are of all stages.
    most = pipeline(_no, _no, steps=tiling.stages)

    @functools.partial(
        pl.run_scoped,
        allocations=most.get_allocations(x, dy),
        whole=plgpu.SMEM((2, STEP, STEP), dw.dtype, transforms=_TRANSFORMS),
        collective_axes='wg',
    )
    def _(allocations, whole):
        wg = lax.axis_index('wg')

        @plgpu.nd_loop(grid, collective_axes='sm')
        def _(info):
            group, i, j = info.index
            row = pl.multiple_of(lax.min(i * block, height - block), STEP)
            column = lax.min(j * columns, width - columns)
            column = pl.multiple_of(column, STEP)
            start, size = starts[group], sizes[group]
            # From where rows are loaded, and those that are another group's.
            first = lax.div(start, ALIGNED) * ALIGNED
            first = pl.multiple_of(first, ALIGNED)
            before = start - first
            steps = lax.div(before + size + STEP - 1, STEP)
            steps = lax.select(size > 0, steps, 0)

            def multiply(index, x_smem, dy_smem, acc):
                low = before - index[0] * STEP
                high = low + size
                dy_mine = dy_smem.at[:, pl.ds(wg * half, half)]

                @pl.when((low > 0) | (high < STEP))
                def _():
                    # Both: rows of others times 0 are NaN if not finite.
                    _keep_rows(x_smem, low, high)
                    _keep_rows(dy_mine, low, high)
                    plgpu.commit_smem()

                plgpu.wgmma(acc, x_smem.transpose((1, 0)), dy_mine)
                plgpu.wgmma_wait(0)
                return acc

            def compute(run):
                @functools.partial(
                    pl.run_scoped, acc=plgpu.ACC((block, half), jnp.float32)
                )
                def _(acc):
                    run(acc)
                    result = acc[...].astype(dw.dtype)
                    target = dw.at[group]
                    for a, b in _chunks(block, half):
                        at = column + wg * half + b
                        _store(
                            result[a : a + STEP, b : b + STEP],
                            target.at[:, pl.ds(at, STEP)],
                            row + a,
                            whole.at[wg],
                        )

            rows = pl.ds(first, x.shape[0])
            pipeline(multiply, compute, steps=steps)(
                x.at[rows, pl.ds(row, block)],
                dy.at[rows, pl.ds(column, columns)],
                allocations=allocations,
            )

    plgpu.wait_smem_to_gmem(0, wait_read_only=True)


def _keep_rows(smem, low, high):
    """Sets all rows but those from `low` up to `high` to 0."""
    row = plgpu.layout_cast(
        lax.broadcasted_iota(jnp.int32, smem.shape, 0), plgpu.Layout.WGMMA
    )
    kept = (row >= low) & (row < high)
    smem[...] = jnp.where(kept, smem[...], jnp.zeros((), smem.dtype))
