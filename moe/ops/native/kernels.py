"""What LLVM code is made of: loops, addresses, vectors of float32."""

import contextlib
from collections.abc import Iterator

from llvmlite import ir

I32, I64, F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()
FLOATS, BYTES, VOID = (
    F32.as_pointer(),
    ir.IntType(8).as_pointer(),
    ir.VoidType(),
)


def number(value: int) -> ir.Constant:
    """Returns a constant of 64 bits."""
    return ir.Constant(I64, value)


@contextlib.contextmanager
def loop(code: ir.IRBuilder, start, stop, step) -> Iterator[ir.Value]:
    """Emits `for i in range(start, stop, step)` around the body.

    Args:
      code: where to emit.
      start: first value, 64 bits, as the others.
      stop: end of the range.
      step: a positive step.

    Yields:
      The value i.
    """
    before, function = code.block, code.function
    head, body, end = (function.append_basic_block() for _ in range(3))
    code.branch(head)
    code.position_at_end(head)
    i = code.phi(I64)
    i.add_incoming(start, before)
    code.cbranch(code.icmp_signed('<', i, stop), body, end)
    code.position_at_end(body)
    yield i
    i.add_incoming(code.add(i, step), code.block)
    code.branch(head)
    code.position_at_end(end)


def declared(
    module: ir.Module, name: str, result: ir.Type, *types: ir.Type
) -> ir.Function:
    """Returns a function of another library, declared in a module once.

    Args:
      module: the module that calls it.
      name: its name.
      result: type of its result.
      *types: types of its arguments.
    """
    found = module.globals.get(name)
    return found or ir.Function(module, ir.FunctionType(result, types), name)


def prefetch(module: ir.Module) -> ir.Function:
    """Returns LLVM's function of (address, write, locality, data)."""
    types = [FLOATS, I32, I32, I32]
    return declared(module, 'llvm.prefetch.p0', VOID, *types)


def copy(module: ir.Module, lanes: int) -> ir.Function:
    """Adds a function of (rows, columns, to, to_stride, source, stride).

    It copies a block past the caches, where whole lines of them are written.

    Args:
      module: the module.
      lanes: float32 numbers of a vector register.
    """
    kind = ir.FunctionType(VOID, [I64] * 2 + [FLOATS, I64] * 2)
    function = ir.Function(module, kind, 'copy_block')
    code = ir.IRBuilder(function.append_basic_block())
    rows, columns, to, to_stride, source, stride = function.args
    vector = ir.VectorType(F32, lanes)
    size = vector.count * 4
    odd = code.or_(code.mul(to_stride, number(4)), code.ptrtoint(to, I64))
    odd = code.or_(odd, code.mul(columns, number(4)))
    odd = code.and_(odd, number(size - 1))
    with code.if_else(code.icmp_signed('==', odd, number(0))) as (then, other):
        for branch, step in ((then, lanes), (other, 1)):
            with (
                branch,
                loop(code, number(0), rows, number(1)) as i,
                loop(code, number(0), columns, number(step)) as j,
            ):
                place = at(code, source, i, stride, j)
                address = at(code, to, i, to_stride, j)
                if step == 1:
                    code.store(code.load(place), address)
                else:
                    store_past(code, load(code, place, vector), address)
    code.ret_void()
    return function


def function_of(
    module: ir.Module, name: str, types: list[ir.Type]
) -> tuple[ir.Function, ir.IRBuilder]:
    """Adds a function, and returns it and where to emit its code.

    Args:
      module: the module.
      name: its name.
      types: types of its arguments; the arrays of floats do not overlap.
    """
    function = ir.Function(module, ir.FunctionType(VOID, types), name)
    for argument in function.args:
        if argument.type == FLOATS:
            argument.add_attribute('noalias')
    return function, ir.IRBuilder(function.append_basic_block())


def ceil_div(code: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """Returns `ceil(x / y)` for x >= 0; 0 if both are 0."""
    y = code.select(code.icmp_signed('>', y, number(0)), y, number(1))
    return code.sdiv(code.add(x, code.sub(y, number(1))), y)


def smaller(code: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """Returns the smaller of two whole numbers."""
    return code.select(code.icmp_signed('<', x, y), x, y)


def at(code: ir.IRBuilder, base: ir.Value, row, stride, column) -> ir.Value:
    """Returns the address of `base[row * stride + column]`."""
    return code.gep(base, [code.add(code.mul(row, stride), column)])


def load(code: ir.IRBuilder, address: ir.Value, kind: ir.VectorType):
    """Returns the vector at the address of its first number."""
    return code.load(code.bitcast(address, kind.as_pointer()), align=4)


def store(code: ir.IRBuilder, value: ir.Value, address: ir.Value) -> None:
    """Stores a vector at the address of its first number."""
    vectors = code.bitcast(address, value.type.as_pointer())
    code.store(value, vectors, align=4)


def store_past(code: ir.IRBuilder, value: ir.Value, address: ir.Value):
    """Stores a vector past the caches, at a multiple of its size."""
    vectors = code.bitcast(address, value.type.as_pointer())
    stored = code.store(value, vectors, align=4 * value.type.count)
    past = code.module.add_metadata([I32(1)])
    stored.set_metadata('nontemporal', past)


def splat(code: ir.IRBuilder, value: ir.Value, kind: ir.VectorType):
    """Returns a vector of equal numbers."""
    none = ir.Constant(kind, ir.Undefined)
    first = code.insert_element(none, value, I32(0))
    zeros = ir.Constant(ir.VectorType(I32, kind.count), None)
    return code.shuffle_vector(first, none, zeros)


def transpose(code: ir.IRBuilder, rows: list) -> list:
    """Returns the columns of a square of n vectors of n lanes.

    Swaps the off-diagonal blocks of size n/2, then n/4, and so on.

    Args:
      code: where to emit.
      rows: the vectors; n is a power of two.
    """
    n = len(rows)
    rows = list(rows)
    size = n // 2
    while size:
        # Lanes of the two vectors that are `size` apart; those of the second
        # are counted from n on.
        low = [i ^ size | n if i & size else i for i in range(n)]
        high = [i | n if i & size else i | size for i in range(n)]
        kind = ir.VectorType(I32, n)
        for i in range(n):
            if not i & size:
                pair = rows[i], rows[i | size]
                rows[i] = code.shuffle_vector(*pair, ir.Constant(kind, low))
                rows[i | size] = code.shuffle_vector(
                    *pair, ir.Constant(kind, high)
                )
        size //= 2
    return rows
