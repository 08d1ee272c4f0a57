"""Inner loops of a float32 matrix product, as LLVM code.

The product of a block of rows is made of tiles of `rows` x `columns` numbers
that stay in registers while the sum over k runs. Both factors are first
packed in the order in which a tile reads them: of the left one a strip of
rows [k, rows], of the right one a panel of columns [k, columns].

Source: Goto and van de Geijn, Anatomy of high-performance matrix
multiplication, ACM TOMS 34(3), 2008.
"""

import dataclasses
import itertools

from llvmlite import ir

from moe.ops.native.kernels import (
    F32,
    FLOATS,
    I64,
    at,
    declared,
    function_of,
    load,
    number,
    splat,
    store,
    store_past,
)
from moe.ops.native.packing import Packing

# What is done with the numbers of a tile: PAST the caches they must be at
# addresses that are multiples of a vector's size.
SET, ADD, PAST = 0, 1, 2


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


class Kernels:
    """The functions of a module that fill tiles and pack what they read.

    Args:
      module: the module to which they are added.
      tile: the sizes of a tile.

    Attributes:
      tile: the sizes of a tile.
      fill: for each number of rows from 1 on, a function of (k, strip, panel,
        out, stride, add) that writes the product of a strip and a panel to a
        tile of the rows `out[i * stride]`: `SET`, `PAST` the caches, or
        adds it for any other number.
      packing: functions that pack strips and panels.
    """

    def __init__(self, module: ir.Module, tile: Tile):
        self._module, self.tile = module, tile
        lanes = tile.lanes
        self.packing = Packing(module, lanes, tile.rows, tile.columns)
        self._vector = ir.VectorType(F32, lanes)
        name = f'llvm.fma.v{lanes}f32'
        self._fma = declared(module, name, *[self._vector] * 4)
        self.fill = [self._fill(rows) for rows in range(1, tile.rows + 1)]

    def _function(self, name, types):
        return function_of(self._module, name, types)

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
        adding = function.append_basic_block()
        switch = code.switch(add, adding)
        for case in (SET, PAST, None):
            block = adding
            if case is not None:
                block = function.append_basic_block()
                switch.add_case(number(case), block)
            code.position_at_end(block)
            self._write(code, sums, out, stride, case)
            code.ret_void()
        return function

    def _write(self, code, sums, out, stride, case):
        for row, vectors in enumerate(sums):
            for j, value in enumerate(vectors):
                place = number(j * self.tile.lanes)
                address = at(code, out, number(row), stride, place)
                if case == PAST:
                    store_past(code, value, address)
                    continue
                if case is None:
                    value = code.fadd(value, self._load(code, address))
                store(code, value, address)
