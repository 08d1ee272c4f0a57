"""The tasks of grouped products, each a block of one group's rows or columns.

A rows, E groups, T tasks:

    rows_0: x [A, K], w [E, K, N], tasks [T, 3] -> [A, N]
    rows_1: x [A, K], w [E, N, K], tasks [T, 3] -> [A, N]
    outer:  x [A, M], y [A, N], groups [E, 2] -> [E, M, N]

`tasks` has for each task its group (E for rows that are zero), its first row
and how many rows it has, at most `BLOCK_ROWS`; `groups` the first row and the
number of rows of each group. Both are int32.
"""

import dataclasses

from llvmlite import ir

from moe.ops.native.calls import BLOCK_ROWS
from moe.ops.native.gemm import BLOCK_K, Gemm
from moe.ops.native.kernels import (
    BYTES,
    I32,
    I64,
    at,
    ceil_div,
    declared,
    number,
    smaller,
)
from moe.ops.native.tiles import PAST, SET

# Bytes of a result that is written past the caches, which could not hold it.
_FAR = 2**26


@dataclasses.dataclass(frozen=True)
class Buffer:
    """An array, in code that runs on its address and dimensions.

    Attributes:
      address: address of the first number.
      dims: its dimensions, 64 bits each.
    """

    address: ir.Value
    dims: list[ir.Value]

    def row(self, code: ir.IRBuilder, index: ir.Value) -> ir.Value:
        """Returns the address of a row of all but the last dimension."""
        return self.place(code, index, number(0))

    def place(self, code: ir.IRBuilder, row: ir.Value, column) -> ir.Value:
        """Returns the address of a number of a row."""
        return at(code, self.address, row, self.dims[-1], column)

    def whole(self, code: ir.IRBuilder, row: ir.Value, column) -> ir.Value:
        """Returns a number of an int32 matrix; the column may be an int."""
        column = number(column) if isinstance(column, int) else column
        place = code.bitcast(self.place(code, row, column), I32.as_pointer())
        return code.sext(code.load(place), I64)


class Rows:
    """Each row times the matrix of its group.

    Args:
      gemm: product of rows and a matrix, which may be kept transposed.
    """

    ranks: tuple[int, ...] = (2, 3, 2, 2)
    results = 1
    tasks = 2  # place of the tasks among the buffers

    def __init__(self, gemm: Gemm):
        self.gemm, self.scratch = gemm, gemm.panel + gemm.strips

    def count(self, code: ir.IRBuilder, buffers: list[Buffer]) -> ir.Value:
        """Returns the number of tasks.

        Args:
          code: where to emit.
          buffers: the arguments and the results.
        """
        return buffers[self.tasks].dims[0]

    def emit(self, code, buffers: list[Buffer], task, scratch) -> None:
        """Emits a task.

        Args:
          code: where to emit.
          buffers: the arguments and the results.
          task: index of the task.
          scratch: memory of `scratch` numbers.
        """
        x, w, tasks, out = buffers
        k, n = x.dims[1], out.dims[1]
        group, row, rows = (tasks.whole(code, task, i) for i in range(3))
        to = out.row(code, row)
        product = code.icmp_signed('<', group, w.dims[0])
        with code.if_else(product) as (then, otherwise):
            with then:
                first = code.mul(group, w.dims[1])
                stride = w.dims[2]
                args = [rows, n, k, x.row(code, row), k, w.row(code, first)]
                args += [stride, to, n, number(SET), number(0)]
                panel = code.gep(scratch, [number(self.gemm.strips)])
                code.call(self.gemm.function, [*args, scratch, panel])
            with otherwise:
                zero(code, to, code.mul(rows, n))


class Outer:
    """For each group the sum over its rows of `x[a]^T y[a]`.

    Args:
      gemm: product of a matrix that is kept transposed and another.
    """

    ranks: tuple[int, ...] = (2, 2, 2, 3)
    results = 1

    def __init__(self, gemm: Gemm):
        self.gemm, self.scratch = gemm, gemm.panel + gemm.strips

    def count(self, code: ir.IRBuilder, buffers: list[Buffer]) -> ir.Value:
        """Returns the number of tasks, see `Rows.count`."""
        groups, m, _ = buffers[-1].dims
        return code.mul(groups, ceil_div(code, m, number(BLOCK_ROWS)))

    def emit(self, code, buffers: list[Buffer], task, scratch) -> None:
        """Emits a task, see `Rows.emit`."""
        *left, y, groups, out = buffers
        _, m, n = out.dims
        blocks = ceil_div(code, m, number(BLOCK_ROWS))
        height = ceil_div(code, m, blocks)
        group, block = code.sdiv(task, blocks), code.srem(task, blocks)
        start = code.mul(block, height)
        rows = smaller(code, code.sub(m, start), height)
        first, k = (groups.whole(code, group, i) for i in range(2))
        to = out.row(code, code.add(code.mul(group, m), start))
        some = code.icmp_signed('>', k, number(0))
        with code.if_else(some) as (then, otherwise):
            with then:
                mode = self._mode(code, out, k)
                args = [rows, first, k, y, to, mode, scratch]
                self.multiply(code, left, start, *args)
            with otherwise:
                zero(code, to, code.mul(rows, n))

    def _mode(self, code, out, k):
        """PAST for numbers that are written once, and read much later."""
        groups, m, n = out.dims
        size = code.mul(code.mul(groups, m), code.mul(n, number(4)))
        lanes = self.gemm.lanes
        start = code.ptrtoint(out.address, I64)
        odd = code.or_(start, code.mul(n, number(4)))
        odd = code.and_(odd, number(4 * lanes - 1))
        past = code.and_(
            code.icmp_signed('<=', k, number(BLOCK_K)),
            code.icmp_signed('>=', size, number(_FAR)),
        )
        past = code.and_(past, code.icmp_signed('==', odd, number(0)))
        return code.select(past, number(PAST), number(SET))

    def multiply(self, code, left, start, rows, first, k, y, to, mode, scratch):
        """Emits the sum of a task over the rows of its group.

        Args:
          code: where to emit.
          left: the buffers of the left factor.
          start: its first column.
          rows: its number of columns, which are rows of the result.
          first: first row of the group.
          k: rows of the group.
          y: the right factor.
          to: address of the result.
          mode: `SET` or `PAST`.
          scratch: memory of `scratch` numbers.
        """
        (x,) = left
        factor = code.gep(x.row(code, first), [start]), x.dims[1]
        self.gemm_of(code, rows, k, factor, first, y, to, mode, scratch)

    def gemm_of(self, code, rows, k, left, first, y, to, add, scratch):
        """Emits the call of the product; `left` has its stride."""
        n = y.dims[1]
        args = [rows, n, k, *left, y.row(code, first), n, to, n]
        panel = code.gep(scratch, [number(self.gemm.strips)])
        args += [add, number(0), scratch, panel]
        code.call(self.gemm.function, args)


def zero(code: ir.IRBuilder, address: ir.Value, count: ir.Value) -> None:
    """Emits the writing of zeros.

    Args:
      code: where to emit.
      address: address of the first float32.
      count: how many they are.
    """
    memset = declared(code.module, 'memset', BYTES, BYTES, I32, I64)
    size = code.mul(count, number(4))
    code.call(memset, [code.bitcast(address, BYTES), I32(0), size])
