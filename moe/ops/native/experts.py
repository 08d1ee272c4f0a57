"""The tasks of gated experts, forward and backward, a block of rows each.

A rows, E groups, D, F and N widths, T tasks:

    gated: x [A, D], up, gate [E, D, F], down [E, F, N], tasks [T, 3],
      activation [1, 1] -> y [A, N], x up, x gate [A, F]
    gated_rows: dy [A, N], x up, x gate, up, gate, down, tasks, activation,
      any [E, F, N] -> dx [A, D], gradients of x up and of x gate [A, F]
    gated_down: x up, x gate, activation, dy [A, N], groups [E, 2] -> [E, F, N]

Tasks and groups are those of `moe.ops.native.products`, the activation a place
in `calls.ACTIVATIONS`. The product `act(x gate) * x up` is never an array: it
is made for some columns at a time, which the second cache holds, and
multiplied from there.
"""

from llvmlite import ir

from moe.ops.native.activations import Activations
from moe.ops.native.calls import BLOCK_ROWS
from moe.ops.native.gemm import BLOCK_K, Gemm
from moe.ops.native.kernels import copy, loop, number, smaller
from moe.ops.native.products import Buffer, Outer, Rows, zero
from moe.ops.native.tiles import ADD, SET

_COLUMNS = 256  # of F, at a time
_BLOCK = BLOCK_ROWS * _COLUMNS
_FRESH, _PACKED = number(0), number(1)


class _Gated(Rows):
    """A block of rows of one group through all columns of F.

    Args:
      gemm: product of rows and a matrix, which may be kept transposed.
      activations: functions of blocks.
    """

    results = 3

    def __init__(self, gemm: Gemm, activations: Activations):
        super().__init__(gemm)
        self._activations = activations
        # For the rows, for what is made of them, and for two blocks of that.
        sizes = [gemm.panel, gemm.strips, gemm.strips, _BLOCK, _BLOCK]
        self._starts = [sum(sizes[:i]) for i in range(len(sizes))]
        self.scratch = sum(sizes)

    def _places(self, code, scratch):
        return [code.gep(scratch, [number(start)]) for start in self._starts]

    def _multiply(self, code, sizes, left, right, out, add, packed, memory):
        """Emits a product of factors and a result with their strides."""
        factors = [*left, *right, *out]
        args = [*sizes, *factors, add, packed, *memory]
        code.call(self.gemm.function, args)


class Gated(_Gated):
    """`y = (act(x gate) * x up) down`; keeps both inner products if asked."""

    ranks = (2, 3, 3, 3, 2, 2, 2, 2, 2)
    tasks = 4

    def __init__(self, module, lanes, gemm: Gemm, activations: Activations):
        super().__init__(gemm, activations)
        self._copy = copy(module, lanes)

    def emit(self, code: ir.IRBuilder, buffers: list[Buffer], task, scratch):
        """Emits a task, see `Rows.emit`."""
        x, w_up, w_gate, w_down, tasks, chosen, y, *kept = buffers
        (d, hidden), n = w_up.dims[1:], y.dims[1]
        group, row, rows = (tasks.whole(code, task, i) for i in range(3))
        activation = chosen.whole(code, number(0), 0)
        panel, strips, inner, *blocks = self._places(code, scratch)
        keeps = code.icmp_signed('>', kept[0].dims[0], number(0))
        columns = number(_COLUMNS)
        product = code.icmp_signed('<', group, w_up.dims[0])
        with code.if_else(product) as (then, otherwise):
            with then, loop(code, number(0), hidden, columns) as start:
                width = smaller(code, code.sub(hidden, start), columns)
                first = code.mul(group, d)
                for w, to, packed in zip(
                    (w_up, w_gate), blocks, (start, _PACKED), strict=True
                ):
                    self._multiply(
                        code,
                        (rows, width, d),
                        (x.row(code, row), d),
                        (w.place(code, first, start), hidden),
                        (to, columns),
                        number(SET),
                        packed,
                        (strips, panel),
                    )
                with code.if_then(keeps):
                    for array, block in zip(kept, blocks, strict=True):
                        to = array.place(code, row, start)
                        args = [rows, width, to, hidden, block, columns]
                        code.call(self._copy, args)
                h = blocks[0]
                block = [activation, rows, width, *blocks, columns, h, columns]
                code.call(self._activations.forward, block)
                first = code.add(code.mul(group, hidden), start)
                self._multiply(
                    code,
                    (rows, n, width),
                    (h, columns),
                    (w_down.row(code, first), n),
                    (y.row(code, row), n),
                    start,
                    _FRESH,
                    (inner, panel),
                )
            with otherwise:
                zero(code, y.row(code, row), code.mul(rows, n))


class GatedRows(_Gated):
    """The gradients of rows, and of both inner products in their place."""

    ranks = (2, 2, 2, 3, 3, 3, 2, 2, 3, 2, 2, 2)
    tasks = 6

    def emit(self, code: ir.IRBuilder, buffers: list[Buffer], task, scratch):
        """Emits a task, see `Rows.emit`."""
        dy, up, gate, w_up, w_gate, w_down, tasks, chosen, *_ = buffers
        dx, *_ = buffers[-3:]  # the others are `up` and `gate`
        (d, hidden), n = w_up.dims[1:], dy.dims[1]
        group, row, rows = (tasks.whole(code, task, i) for i in range(3))
        activation = chosen.whole(code, number(0), 0)
        panel, strips, inner, *blocks = self._places(code, scratch)
        columns = number(_COLUMNS)
        product = code.icmp_signed('<', group, w_up.dims[0])
        with code.if_else(product) as (then, otherwise):
            with then, loop(code, number(0), hidden, columns) as start:
                width = smaller(code, code.sub(hidden, start), columns)
                first = code.add(code.mul(group, hidden), start)
                self._multiply(
                    code,
                    (rows, width, n),
                    (dy.row(code, row), n),
                    (w_down.row(code, first), n),
                    (blocks[0], columns),
                    number(SET),
                    start,
                    (strips, panel),
                )
                places = [v.place(code, row, start) for v in (up, gate)]
                block = [activation, rows, width, *places, hidden]
                block += [blocks[0], columns, blocks[1]]
                code.call(self._activations.backward, block)
                first = code.mul(group, d)
                for w, left, add in zip(
                    (w_up, w_gate), blocks, (start, number(ADD)), strict=True
                ):
                    self._multiply(
                        code,
                        (rows, d, width),
                        (left, columns),
                        (w.place(code, first, start), hidden),
                        (dx.row(code, row), d),
                        add,
                        _FRESH,
                        (inner, panel),
                    )
            with otherwise:
                zero(code, dx.row(code, row), code.mul(rows, d))


class GatedDown(Outer):
    """`sum_a (act(gate[a]) * up[a])^T y[a]` of each group.

    Args:
      gemm: product of a matrix that is kept transposed and another.
      activations: functions of blocks.
    """

    ranks = (2, 2, 2, 2, 2, 3)

    def __init__(self, gemm: Gemm, activations: Activations):
        super().__init__(gemm)
        self._activations = activations
        self._block = self.scratch
        self.scratch += BLOCK_K * BLOCK_ROWS

    def multiply(self, code, left, start, rows, first, k, y, to, mode, scratch):
        """Emits the sum of a task, see `Outer.multiply`."""
        up, gate, chosen = left
        activation = chosen.whole(code, number(0), 0)
        h, stride = code.gep(scratch, [number(self._block)]), number(BLOCK_ROWS)
        with loop(code, number(0), k, number(BLOCK_K)) as k0:
            length = smaller(code, code.sub(k, k0), number(BLOCK_K))
            row = code.add(first, k0)
            places = [array.place(code, row, start) for array in (up, gate)]
            block = [activation, length, rows, *places, up.dims[1], h, stride]
            code.call(self._activations.forward, block)
            add = code.or_(mode, k0)
            self.gemm_of(
                code, rows, length, (h, stride), row, y, to, add, scratch
            )
