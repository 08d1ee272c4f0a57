"""The product of two float32 matrices, of which either may be transposed."""

from llvmlite import ir

from moe.ops.native.calls import BLOCK_ROWS
from moe.ops.native.kernels import (
    F32,
    FLOATS,
    I64,
    VOID,
    at,
    ceil_div,
    declared,
    load,
    loop,
    number,
    smaller,
    splat,
    store,
)
from moe.ops.native.tiles import PAST, SET, Kernels

# A packed block of the left factor, 512 KiB, fits the second cache.
BLOCK_K = 512

# Rows for which the right factor is not worth packing, as in decoding.
_FEW = 4
_DEPTH = 8  # rows of the right factor that are read at a time then


class Gemm:
    """The function `out = left @ right` of a module, or `out += left @ right`.

    Args:
      module: the module to which it is added.
      kernels: its kernels.
      left_transposed: whether left is kept as [k, m] and not as [m, k].
      right_transposed: whether right is kept as [n, k] and not as [k, n].

    Attributes:
      lanes: float32 numbers of a vector register.
      strips: how many float32 numbers of memory the packed left factor needs.
      panel: how many what is packed of the right one needs.
      function: the function of (m, n, k, left, left_stride, right,
        right_stride, out, out_stride, add, packed, strips, panel); m is at most
        `BLOCK_ROWS`, `add` is `SET`, `ADD` or `PAST`. If `packed` is not 0,
        the call before had the same left factor and strips, which are not
        packed again if k is at most `BLOCK_K`.
    """

    def __init__(
        self,
        module: ir.Module,
        kernels: Kernels,
        left_transposed: bool,
        right_transposed: bool,
    ):
        self._kernels = kernels
        tile = kernels.tile
        self.lanes = tile.lanes
        self.strips = BLOCK_ROWS * (BLOCK_K + tile.lanes)
        self._edge = BLOCK_K * tile.columns
        self.panel = self._edge + tile.rows * tile.columns
        types = [I64] * 3 + [FLOATS, I64] * 3 + [I64] * 2 + [FLOATS] * 2
        name = f'gemm_{left_transposed:d}{right_transposed:d}'
        self.function = ir.Function(module, ir.FunctionType(VOID, types), name)
        code = ir.IRBuilder(self.function.append_basic_block())
        if not left_transposed and not right_transposed:
            few = code.icmp_signed('<=', self.function.args[0], number(_FEW))
            with code.if_then(few):
                self._emit_few(code)
                code.ret_void()
        self._emit(code, left_transposed, right_transposed)

    def _emit(self, code, left_transposed, right_transposed):
        m, n, k, left, left_stride, right, right_stride = code.function.args[:7]
        add, packed, strips, panel = code.function.args[9:]
        columns = number(self._kernels.tile.columns)
        # Strips of nearly equal height, so that the last is not a sliver.
        height = ceil_div(
            code, m, ceil_div(code, m, number(self._kernels.tile.rows))
        )
        missing = code.or_(
            code.icmp_signed('==', packed, number(0)),
            code.icmp_signed('>', k, number(BLOCK_K)),
        )
        with loop(code, number(0), k, number(BLOCK_K)) as k0:
            length = smaller(code, code.sub(k, k0), number(BLOCK_K))
            adds = code.or_(add, k0)
            with code.if_then(missing):
                place = (k0, number(0)) if left_transposed else (number(0), k0)
                matrix = at(code, left, place[0], left_stride, place[1])
                pack = self._kernels.packing.strips[left_transposed]
                args = [strips, matrix, left_stride, m, length, height]
                code.call(pack, args)
            with loop(code, number(0), n, columns) as j:
                width = smaller(code, code.sub(n, j), columns)
                place = (j, k0) if right_transposed else (k0, j)
                matrix = at(code, right, place[0], right_stride, place[1])
                pack = self._kernels.packing.panel[right_transposed]
                code.call(pack, [panel, matrix, right_stride, length, width])
                with loop(code, number(0), m, height) as i:
                    rows = smaller(code, code.sub(m, i), height)
                    strip = self._kernels.packing.strip(code, strips, i, length)
                    self._tile(code, rows, width, length, strip, i, j, adds)
        code.ret_void()

    def _tile(self, code, rows, width, length, strip, i, j, adds):
        """Fills a tile of the result, at the right edge through a copy."""
        out, stride, *_, panel = code.function.args[7:]
        out = at(code, out, i, stride, j)
        columns = number(self._kernels.tile.columns)
        whole = code.icmp_signed('==', width, columns)
        with code.if_else(whole) as (then, otherwise):
            with then:
                self._fill(code, rows, length, strip, panel, out, stride, adds)
            with otherwise:
                edge = code.gep(panel, [number(self._edge)])
                self._fill(
                    code, rows, length, strip, panel, edge, columns, number(SET)
                )
                some = code.and_(adds, number(~PAST))
                some = code.icmp_signed('!=', some, number(SET))
                with code.if_else(some) as (adding, setting):
                    with adding:
                        self._copy(code, edge, out, stride, rows, width, True)
                    with setting:
                        self._copy(code, edge, out, stride, rows, width, False)

    def _fill(self, code, rows, *args):
        """Calls the kernel of that many rows."""
        end = code.function.append_basic_block()
        switch = code.switch(rows, end)
        for count, kernel in enumerate(self._kernels.fill, start=1):
            block = code.function.append_basic_block()
            switch.add_case(number(count), block)
            code.position_at_end(block)
            code.call(kernel, args)
            code.branch(end)
        code.position_at_end(end)

    def _copy(self, code, edge, out, stride, rows, width, adding):
        columns = number(self._kernels.tile.columns)
        with (
            loop(code, number(0), rows, number(1)) as i,
            loop(code, number(0), width, number(1)) as j,
        ):
            to = at(code, out, i, stride, j)
            value = code.load(at(code, edge, i, columns, j))
            if adding:
                value = code.fadd(value, code.load(to))
            code.store(value, to)

    def _emit_few(self, code):
        """Emits the product of few rows: the right factor is read as it is.

        Sums are in the order of those of a tile.
        """
        m, n, k, left, left_stride, *_, out, out_stride, add = (
            code.function.args[:10]
        )
        adding = code.icmp_signed(
            '!=', code.and_(add, number(~PAST)), number(SET)
        )
        deep = code.and_(k, number(-_DEPTH))
        for start, stop, depth in ((number(0), deep, _DEPTH), (deep, k, 1)):
            with (
                loop(code, start, stop, number(depth)) as k0,
                loop(code, number(0), m, number(1)) as i,
            ):
                later = code.icmp_signed('>', k0, number(0))
                old = code.or_(adding, later)
                factors = [
                    code.load(
                        at(code, left, i, left_stride, code.add(k0, number(d)))
                    )
                    for d in range(depth)
                ]
                row = at(code, out, i, out_stride, number(0))
                self._add_multiples(code, n, k0, factors, row, old)

    def _add_multiples(self, code, n, k0, factors, row, old):
        """Adds multiples of rows of the right factor to a row of the result.

        Args:
          code: where to emit.
          n: length of the rows.
          k0: the first of the rows.
          factors: what each is multiplied by.
          row: address of the row of the result.
          old: whether it has numbers to which these are added.
        """
        right, stride = code.function.args[5:7]
        whole = code.and_(n, number(-self.lanes))
        vector = ir.VectorType(F32, self.lanes)
        for start, stop, kind in ((number(0), whole, vector), (whole, n, F32)):
            lanes = getattr(kind, 'count', 1)
            suffix = f'v{lanes}f32' if lanes > 1 else 'f32'
            fma = declared(code.module, f'llvm.fma.{suffix}', *[kind] * 4)
            with loop(code, start, stop, number(lanes)) as j:
                to = code.gep(row, [j])
                zero = ir.Constant(kind, [0.0] * lanes if lanes > 1 else 0.0)
                total = code.select(old, self._read(code, to, kind), zero)
                for d, factor in enumerate(factors):
                    place = at(code, right, code.add(k0, number(d)), stride, j)
                    value = self._read(code, place, kind)
                    if lanes > 1:
                        factor = splat(code, factor, kind)
                    total = code.call(fma, [factor, value, total])
                if lanes > 1:
                    store(code, total, to)
                else:
                    code.store(total, to)

    def _read(self, code, address, kind):
        vector = isinstance(kind, ir.VectorType)
        return load(code, address, kind) if vector else code.load(address)
