"""Inner loops of a float32 matrix product, as LLVM code.

The product of a block of rows is made of tiles of `rows` x `columns` numbers
that stay in registers while the sum over k runs. Both factors are first
packed in the order in which a tile reads them: of the left one a strip of
rows [k, rows], of the right one a panel of columns [k, columns].

Source: Goto and van de Geijn, Anatomy of high-performance matrix
multiplication, ACM TOMS 34(3), 2008.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator

from llvmlite import ir

I32, I64, F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()
FLOATS, BYTES, VOID = (
    F32.as_pointer(),
    ir.IntType(8).as_pointer(),
    ir.VoidType(),
)


@dataclasses.dataclass(frozen=True)
class Tile:
    """The sizes of a tile, which registers of a processor must hold.

    Attributes:
      lanes: float32 numbers of a vector register.
      vectors: registers of a row of the tile.
      rows: largest number of rows; `rows * vectors` registers hold the sums.
    """

    lanes: int
    vectors: int
    rows: int

    @property
    def columns(self) -> int:
        """Returns the number of columns of a tile."""
        return self.lanes * self.vectors


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


def splat(code: ir.IRBuilder, value: ir.Value, kind: ir.VectorType):
    """Returns a vector of equal numbers."""
    none = ir.Constant(kind, ir.Undefined)
    first = code.insert_element(none, value, I32(0))
    zeros = ir.Constant(ir.VectorType(I32, kind.count), None)
    return code.shuffle_vector(first, none, zeros)


class Kernels:
    """The functions of a module that fill tiles and pack what they read.

    Args:
      module: the module to which they are added.
      tile: the sizes of a tile.

    Attributes:
      tile: the sizes of a tile.
      fill: for each number of rows from 1 on, a function of (k, strip, panel,
        out, stride, add) that writes, or adds if `add` is not 0, the product
        of a strip and a panel to a tile of the rows `out[i * stride]`.
      pack_strip: by whether the matrix is transposed, a function of (strip,
        matrix, stride, rows, k).
      pack_panel: likewise, a function of (panel, matrix, stride, k, columns);
        absent columns are zero.
    """

    def __init__(self, module: ir.Module, tile: Tile):
        self._module, self.tile = module, tile
        self._vector = ir.VectorType(F32, tile.lanes)
        self._fma = ir.Function(
            module,
            ir.FunctionType(self._vector, [self._vector] * 3),
            f'llvm.fma.v{tile.lanes}f32',
        )
        self._prefetch = ir.Function(
            module,
            ir.FunctionType(VOID, [FLOATS, I32, I32, I32]),
            'llvm.prefetch.p0',
        )
        self.fill = [self._fill(rows) for rows in range(1, tile.rows + 1)]
        self.pack_strip = [self._pack_strip(t) for t in (False, True)]
        self.pack_panel = [self._pack_panel(t) for t in (False, True)]

    def _function(self, name, types):
        """Adds a function whose first two arguments do not overlap others."""
        kind = ir.FunctionType(VOID, types)
        function = ir.Function(self._module, kind, name)
        for argument in function.args:
            if argument.type == FLOATS:
                argument.add_attribute('noalias')
        return function, ir.IRBuilder(function.append_basic_block())

    def _load(self, code, address):
        return load(code, address, self._vector)

    def _fill(self, rows):
        types = [I64, FLOATS, FLOATS, FLOATS, I64, I64]
        function, code = self._function(f'fill_{rows}', types)
        k, strip, panel, out, stride, add = function.args
        function.attributes.add('noinline')
        lanes, columns = self.tile.lanes, self.tile.columns
        places = range(0, columns, lanes)
        before = code.block
        head, body, end = (function.append_basic_block() for _ in range(3))
        code.branch(head)
        code.position_at_end(head)
        # The sums are variables of the loop, and so stay in registers.
        i = code.phi(I64)
        sums = [[code.phi(self._vector) for _ in places] for _ in range(rows)]
        i.add_incoming(number(0), before)
        for vector in itertools.chain(*sums):
            vector.add_incoming(
                ir.Constant(self._vector, [0.0] * lanes), before
            )
        code.cbranch(code.icmp_signed('<', i, k), body, end)
        code.position_at_end(body)
        right = [
            self._load(code, at(code, panel, i, number(columns), number(place)))
            for place in places
        ]
        for row, vectors in enumerate(sums):
            left = code.load(at(code, strip, i, number(rows), number(row)))
            left = splat(code, left, self._vector)
            for total, factor in zip(vectors, right, strict=True):
                new = code.call(self._fma, [left, factor, total])
                total.add_incoming(new, body)
        i.add_incoming(code.add(i, number(1)), body)
        code.branch(head)
        code.position_at_end(end)
        adds = code.icmp_signed('!=', add, number(0))
        with code.if_else(adds) as (then, otherwise):
            for branch, adding in ((then, True), (otherwise, False)):
                with branch:
                    self._write(code, sums, out, stride, adding)
        code.ret_void()
        return function

    def _write(self, code, sums, out, stride, adding):
        for row, vectors in enumerate(sums):
            for j, value in enumerate(vectors):
                place = number(j * self.tile.lanes)
                address = at(code, out, number(row), stride, place)
                if adding:
                    value = code.fadd(value, self._load(code, address))
                store(code, value, address)

    def _pack_strip(self, transposed):
        types = [FLOATS, FLOATS, I64, I64, I64]
        function, code = self._function(f'pack_strip_{transposed:d}', types)
        strip, matrix, stride, rows, k = function.args
        one = number(1)
        outer, inner = (k, rows) if transposed else (rows, k)
        with (
            loop(code, number(0), outer, one) as i,
            loop(code, number(0), inner, one) as j,
        ):
            row, column = (j, i) if transposed else (i, j)
            value = code.load(at(code, matrix, i, stride, j))
            code.store(value, at(code, strip, column, rows, row))
        code.ret_void()
        return function

    def _pack_panel(self, transposed):
        types = [FLOATS, FLOATS, I64, I64, I64]
        function, code = self._function(f'pack_panel_{transposed:d}', types)
        panel, matrix, stride, k, columns = function.args
        all_of_them = number(self.tile.columns)
        whole = code.icmp_signed('==', columns, all_of_them)
        with code.if_else(whole) as (then, otherwise):
            with then:
                pack = self._transpose_panel if transposed else self._copy_panel
                pack(code, panel, matrix, stride, k)
            with (
                otherwise,
                loop(code, number(0), k, number(1)) as i,
                loop(code, number(0), all_of_them, number(1)) as j,
            ):
                exists = code.icmp_signed('<', j, columns)
                column = code.select(exists, j, number(0))
                row, column = (column, i) if transposed else (i, column)
                value = code.load(at(code, matrix, row, stride, column))
                value = code.select(exists, value, ir.Constant(F32, 0.0))
                code.store(value, at(code, panel, i, all_of_them, j))
        code.ret_void()
        return function

    def _copy_panel(self, code, panel, matrix, stride, k):
        columns = number(self.tile.columns)
        with loop(code, number(0), k, number(1)) as i:
            for place in range(0, self.tile.columns, self.tile.lanes):
                address = at(code, matrix, i, stride, number(place))
                # The next panel; long strides defeat the hardware's guess.
                ahead = code.gep(address, [columns])
                code.call(self._prefetch, [ahead, I32(0), I32(2), I32(1)])
                value = self._load(code, address)
                store(code, value, at(code, panel, i, columns, number(place)))

    def _transpose_panel(self, code, panel, matrix, stride, k):
        lanes, columns = self.tile.lanes, number(self.tile.columns)
        full = code.and_(k, number(-lanes))
        places = range(0, self.tile.columns, lanes)
        with loop(code, number(0), full, number(lanes)) as i:
            for place in places:
                square = [
                    self._load(
                        code, at(code, matrix, number(place + row), stride, i)
                    )
                    for row in range(lanes)
                ]
                for row, value in enumerate(transpose(code, square)):
                    to = code.add(i, number(row))
                    store(
                        code, value, at(code, panel, to, columns, number(place))
                    )
        with (
            loop(code, full, k, number(1)) as i,
            loop(code, number(0), columns, number(1)) as j,
        ):
            value = code.load(at(code, matrix, j, stride, i))
            code.store(value, at(code, panel, i, columns, j))


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
