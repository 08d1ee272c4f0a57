"""Factors of a product in the order in which a tile reads them."""

from llvmlite import ir

from moe.ops.native.kernels import (
    F32,
    FLOATS,
    I32,
    I64,
    at,
    declared,
    function_of,
    load,
    loop,
    number,
    prefetch,
    smaller,
    splat,
    store,
    transpose,
)


class Packing:
    """The functions of a module that pack the factors of a product.

    Args:
      module: the module to which they are added.
      lanes: float32 numbers of a vector register.
      rows: largest number of rows of a strip.
      columns: those of a panel.

    Attributes:
      strips: by whether the matrix is transposed, a function of (strips,
        matrix, stride, m, k, height) that packs m rows in strips of `height`,
        each [k, height], the last lower.
      panel: likewise, a function of (panel, matrix, stride, k, columns) that
        packs a panel [k, columns]; absent columns are zero.
    """

    def __init__(self, module: ir.Module, lanes: int, rows: int, columns: int):
        self._module, self._lanes = module, lanes
        self._rows, self._columns = rows, columns
        self._vector = ir.VectorType(F32, lanes)
        self._prefetch = prefetch(module)
        exists = ir.VectorType(ir.IntType(1), lanes)
        types = [self._vector.as_pointer(), I32, exists, self._vector]
        name = f'llvm.masked.load.v{lanes}f32.p0'
        self._some = declared(module, name, self._vector, *types)
        self.strips = [self._pack_strips(t) for t in (False, True)]
        self.panel = [self._pack_panel(t) for t in (False, True)]

    def strip(self, code, strips, i, k):
        """Returns the address of the strip of row i; a vector is between two.

        Args:
          code: where to emit.
          strips: address of the first strip.
          i: its first row.
          k: its length.
        """
        length = code.add(k, number(self._lanes))
        return code.gep(strips, [code.mul(i, length)])

    def _function(self, name, types):
        return function_of(self._module, name, types)

    def _load(self, code, address):
        return load(code, address, self._vector)

    def _pack_strips(self, transposed):
        types = [FLOATS, FLOATS, I64, I64, I64, I64]
        function, code = self._function(f'pack_strips_{transposed:d}', types)
        strips, matrix, stride, m, k, height = function.args
        if transposed:
            # Along the rows of the matrix: its columns are far apart.
            with (
                loop(code, number(0), k, number(1)) as j,
                loop(code, number(0), m, height) as i,
            ):
                rows = smaller(code, code.sub(m, i), height)
                strip = self.strip(code, strips, i, k)
                source = at(code, matrix, j, stride, i)
                self._pack_part(code, strip, source, rows, j)
            code.ret_void()
            return function
        full = code.and_(k, number(-self._lanes))
        with loop(code, number(0), m, height) as i:
            rows = smaller(code, code.sub(m, i), height)
            strip = self.strip(code, strips, i, k)
            source = at(code, matrix, i, stride, number(0))
            with loop(code, number(0), full, number(self._lanes)) as j:
                self._transpose_part(code, strip, source, stride, rows, j)
            with (
                loop(code, number(0), rows, number(1)) as row,
                loop(code, full, k, number(1)) as j,
            ):
                value = code.load(at(code, source, row, stride, j))
                code.store(value, at(code, strip, j, rows, row))
        code.ret_void()
        return function

    # Whole vectors are stored for strips that are lower: what is written too
    # much is where the next numbers come, or between two strips.

    def _pack_part(self, code, strip, source, rows, j):
        """Copies the numbers of all rows at j, next to each other."""
        lanes = self._lanes
        for place in range(0, self._rows, lanes):
            lane = ir.Constant(
                ir.VectorType(I64, lanes), list(range(place, place + lanes))
            )
            exists = code.icmp_signed('<', lane, splat(code, rows, lane.type))
            address = code.gep(source, [number(place)])
            address = code.bitcast(address, self._vector.as_pointer())
            none = ir.Constant(self._vector, [0.0] * lanes)
            value = code.call(self._some, [address, I32(4), exists, none])
            store(code, value, at(code, strip, j, rows, number(place)))

    def _transpose_part(self, code, strip, source, stride, rows, j):
        """Copies as many numbers of all rows as a vector has, from j on."""
        lanes, last = self._lanes, code.sub(rows, number(1))
        columns = []
        for place in range(0, self._rows, lanes):
            chosen = [
                smaller(code, number(place + row), last) for row in range(lanes)
            ]
            square = [
                self._load(code, at(code, source, row, stride, j))
                for row in chosen
            ]
            columns.append(transpose(code, square))
        for i, parts in enumerate(zip(*columns, strict=True)):
            for part, value in enumerate(parts):
                to = code.add(j, number(i))
                place = number(part * lanes)
                store(code, value, at(code, strip, to, rows, place))

    def _pack_panel(self, transposed):
        types = [FLOATS, FLOATS, I64, I64, I64]
        function, code = self._function(f'pack_panel_{transposed:d}', types)
        panel, matrix, stride, k, columns = function.args
        all_of_them = number(self._columns)
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
        columns = number(self._columns)
        with loop(code, number(0), k, number(1)) as i:
            for place in range(0, self._columns, self._lanes):
                address = at(code, matrix, i, stride, number(place))
                # The next panel; long strides defeat the hardware's guess.
                ahead = code.gep(address, [columns])
                code.call(self._prefetch, [ahead, I32(0), I32(2), I32(1)])
                value = self._load(code, address)
                store(code, value, at(code, panel, i, columns, number(place)))

    def _transpose_panel(self, code, panel, matrix, stride, k):
        lanes, columns = self._lanes, number(self._columns)
        full = code.and_(k, number(-lanes))
        places = range(0, self._columns, lanes)
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
