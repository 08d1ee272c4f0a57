"""The tasks of row movements, and of a sort of small whole numbers.

N rows of width D, K rows a sum, M sums, A numbers, S their bound:

    gather: x [N, D], index [K, M], weight [K, M] -> [M, D]
    dots:   x [M, D], y [N, D], index [M, 1] -> [M, 1]
    order:  keys [1, A] -> [1, A + S]

Indices and keys are int32, as is what `order` returns; an index that is not
below N stands for no row.
"""

from llvmlite import ir

from moe.ops.native.kernels import (
    F32,
    FLOATS,
    I32,
    I64,
    VOID,
    at,
    ceil_div,
    load,
    loop,
    number,
    smaller,
    splat,
    store,
)
from moe.ops.native.products import Buffer, zero

_ROWS = 64  # of a task


class _OverRows:
    """Tasks of `_ROWS` rows of the result, which need no memory."""

    scratch = 0
    results = 1
    ranks: tuple[int, ...]

    def count(self, code: ir.IRBuilder, buffers: list[Buffer]) -> ir.Value:
        """Returns the number of tasks, see `Rows.count`."""
        return ceil_div(code, buffers[-1].dims[0], number(_ROWS))

    def emit(self, code, buffers: list[Buffer], task, scratch) -> None:
        """Emits a task, see `Rows.emit`."""
        start = code.mul(task, number(_ROWS))
        end = code.add(start, number(_ROWS))
        end = smaller(code, end, buffers[-1].dims[0])
        with loop(code, start, end, number(1)) as row:
            self.emit_row(code, buffers, row)

    def emit_row(self, code, buffers: list[Buffer], row) -> None:
        """Emits the computation of a row of the result."""
        raise NotImplementedError


class Gather(_OverRows):
    """`out[m] = sum_k weight[k, m] x[index[k, m]]`.

    Args:
      module: the module to which its function is added.
      lanes: float32 numbers of a vector register.
    """

    ranks = (2, 2, 2, 2)

    def __init__(self, module: ir.Module, lanes: int):
        kind = ir.FunctionType(VOID, [FLOATS, FLOATS, F32, I64, I64])
        self._add = ir.Function(module, kind, 'add_scaled')
        vector = ir.VectorType(F32, lanes)
        code = ir.IRBuilder(self._add.append_basic_block())
        *_, add = self._add.args
        first = code.icmp_signed('==', add, number(0))
        with code.if_else(first) as (then, otherwise):
            for branch, adds in ((then, False), (otherwise, True)):
                with branch:
                    self._scaled(code, vector, adds)
        code.ret_void()

    def _scaled(self, code, vector, adds):
        out, x, weight, width, _ = self._add.args
        weights = splat(code, weight, vector)
        step = number(vector.count)
        whole = code.and_(width, number(-vector.count))
        with loop(code, number(0), whole, step) as j:
            value = code.fmul(weights, load(code, code.gep(x, [j]), vector))
            to = code.gep(out, [j])
            if adds:
                value = code.fadd(load(code, to, vector), value)
            store(code, value, to)
        with loop(code, whole, width, number(1)) as j:
            value = code.fmul(weight, code.load(code.gep(x, [j])))
            to = code.gep(out, [j])
            if adds:
                value = code.fadd(code.load(to), value)
            code.store(value, to)

    def emit_row(self, code, buffers: list[Buffer], row) -> None:
        """Emits the computation of a row of the result."""
        x, index, weight, out = buffers
        width, to = out.dims[1], out.row(code, row)
        with loop(code, number(0), index.dims[0], number(1)) as k:
            found = index.whole(code, k, row)
            factor = code.load(weight.place(code, k, row))
            exists = code.icmp_unsigned('<', found, x.dims[0])
            with code.if_else(exists) as (then, otherwise):
                with then:
                    source = x.row(code, found)
                    code.call(self._add, [to, source, factor, width, k])
                with (
                    otherwise,
                    code.if_then(code.icmp_signed('==', k, number(0))),
                ):
                    zero(code, to, width)


class Dots(_OverRows):
    """`out[m] = x[m] . y[index[m]]`; 0 where there is no row.

    Args:
      module: the module to which its function is added.
      lanes: float32 numbers of a vector register, a power of two.
    """

    ranks = (2, 2, 2, 2)

    def __init__(self, module: ir.Module, lanes: int):
        kind = ir.FunctionType(F32, [FLOATS, FLOATS, I64])
        self._dot = ir.Function(module, kind, 'dot')
        vector = ir.VectorType(F32, lanes)
        x, y, width = self._dot.args
        code = ir.IRBuilder(self._dot.append_basic_block())
        sums, rest = code.alloca(vector), code.alloca(F32)
        code.store(ir.Constant(vector, [0.0] * lanes), sums)
        code.store(ir.Constant(F32, 0.0), rest)
        whole = code.and_(width, number(-lanes))
        for total, start, end, read in (
            (sums, number(0), whole, lambda a: load(code, a, vector)),
            (rest, whole, width, code.load),
        ):
            step = number(lanes if total is sums else 1)
            with loop(code, start, end, step) as j:
                left, right = (read(code.gep(v, [j])) for v in (x, y))
                product = code.fmul(left, right)
                code.store(code.fadd(code.load(total), product), total)
        value = code.load(sums)
        none = ir.Constant(vector, ir.Undefined)
        size = lanes // 2
        while size:
            # The second half of the lanes that are left, to the first.
            lanes_of = ir.Constant(
                ir.VectorType(I32, lanes),
                [(i + size) % lanes for i in range(lanes)],
            )
            other = code.shuffle_vector(value, none, lanes_of)
            value = code.fadd(value, other)
            size //= 2
        first = code.extract_element(value, I32(0))
        code.ret(code.fadd(first, code.load(rest)))

    def emit_row(self, code, buffers: list[Buffer], row) -> None:
        """Emits the computation of a row of the result."""
        x, y, index, out = buffers
        found = index.whole(code, row, 0)
        to = out.row(code, row)
        exists = code.icmp_unsigned('<', found, y.dims[0])
        with code.if_else(exists) as (then, otherwise):
            with then:
                rows = x.row(code, row), y.row(code, found)
                code.store(code.call(self._dot, [*rows, x.dims[1]]), to)
            with otherwise:
                code.store(ir.Constant(F32, 0.0), to)


class Order:
    """Places of the keys in rising order, equal ones as they come.

    The result has the A places, then for each number below S how many keys are
    not greater. Keys are from 0 to S - 1. A counting sort: one task.
    """

    scratch = 0
    results = 1
    ranks = (2, 2)

    def count(self, code: ir.IRBuilder, buffers: list[Buffer]) -> ir.Value:
        """Returns the number of tasks, see `Rows.count`."""
        return number(1)

    def emit(self, code, buffers: list[Buffer], task, scratch) -> None:
        """Emits a task, see `Rows.emit`."""
        keys, out = buffers
        total = keys.dims[1]
        bound = code.sub(out.dims[1], total)
        places = code.bitcast(out.address, I32.as_pointer())
        next_of = code.gep(places, [total])
        zero(code, code.gep(out.address, [total]), bound)

        def taken(key):
            """Returns the number of a key, and raises it by one."""
            place = at(code, next_of, key, number(1), number(0))
            found = code.load(place)
            code.store(code.add(found, I32(1)), place)
            return found

        with loop(code, number(0), total, number(1)) as i:
            taken(keys.whole(code, number(0), i))
        before = code.alloca(I32)
        code.store(I32(0), before)
        with loop(code, number(0), bound, number(1)) as key:
            place = code.gep(next_of, [key])
            found, first = code.load(place), code.load(before)
            code.store(first, place)
            code.store(code.add(first, found), before)
        with loop(code, number(0), total, number(1)) as i:
            place = taken(keys.whole(code, number(0), i))
            to = code.gep(places, [code.sext(place, I64)])
            code.store(code.trunc(i, I32), to)
