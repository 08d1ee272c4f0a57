"""Activations of gated experts and their gradients, as LLVM code.

An activation is `act(g) = g * sigmoid(p(g))`: `p(g) = g` for silu, and for gelu
by its tanh form `p(g) = 2 sqrt(2/pi) (g + 0.044715 g^3)`, as
`(1 + tanh(u)) / 2 = sigmoid(2 u)`. Source: arXiv 1606.08415.
"""

import math
from collections.abc import Callable

from llvmlite import ir

from moe.ops.native.calls import ACTIVATIONS
from moe.ops.native.kernels import (
    F32,
    FLOATS,
    I32,
    I64,
    VOID,
    at,
    load,
    loop,
    number,
    prefetch,
    store,
)

_LOG2E = 1.44269504088896341
# ln 2 in two parts, the first exact in few bits.
_LN2 = 0.693359375, -2.12194440e-4
# exp(r) = 1 + r + r^2 q(r) for |r| <= ln(2)/2, by Cephes' expf.
_POLYNOMIAL = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)
_SCALE, _CUBE = 2 * math.sqrt(2 / math.pi), 0.044715
# Added and taken away, it leaves a whole number, in its low bits.
_ROUNDS = 1.5 * 2**23


class Activations:
    """The functions of a module that apply activations to blocks.

    Args:
      module: the module to which they are added.
      lanes: float32 numbers of a vector register.

    Attributes:
      forward: a function of (activation, rows, columns, up, gate, stride, h,
        h_stride) that sets `h = act(gate) * up`; the activation is its place in
        `calls.ACTIVATIONS`.
      backward: a function of (activation, rows, columns, up, gate, stride, dh,
        h_stride, dh_gate) that sets the gradients by `up` and `gate` in their
        place, and once more in that of dh and in dh_gate.
    """

    def __init__(self, module: ir.Module, lanes: int):
        self._vector = ir.VectorType(F32, lanes)
        self._fetch = prefetch(module)
        block = [I64] * 3 + [FLOATS] * 2 + [I64, FLOATS, I64]
        self.forward = self._over(module, 'hidden', block, self._hidden)
        block.append(FLOATS)
        self.backward = self._over(module, 'gradients', block, self._gradients)

    def _over(self, module, name, types, emit):
        """Adds a function over a block, vectors first and then the rest."""
        function = ir.Function(module, ir.FunctionType(VOID, types), name)
        code = ir.IRBuilder(function.append_basic_block())
        chosen, rows, columns = function.args[:3]
        whole = code.and_(columns, number(-self._vector.count))
        end = function.append_basic_block()
        switch = code.switch(chosen, end)
        for place, (_, act) in enumerate(_ACTS.items()):
            block = function.append_basic_block()
            switch.add_case(number(place), block)
            code.position_at_end(block)
            with loop(code, number(0), rows, number(1)) as i:
                step = number(self._vector.count)
                with loop(code, number(0), whole, step) as j:
                    emit(code, function.args, act, i, j, self._vector)
                with loop(code, whole, columns, number(1)) as j:
                    emit(code, function.args, act, i, j, F32)
            code.branch(end)
        code.position_at_end(end)
        code.ret_void()
        return function

    def _hidden(self, code, args, act, i, j, kind):
        up, gate, stride, h, h_stride = args[3:]
        up, gate = (
            self._far(code, v, i, stride, j, kind)[0] for v in (up, gate)
        )
        share, _ = act(_Float(code, kind), gate)
        value = code.fmul(code.fmul(gate, share), up)
        _write(code, value, at(code, h, i, h_stride, j))

    def _gradients(self, code, args, act, i, j, kind):
        up, gate, stride, dh, dh_stride, more = args[3:]
        up, to_up = self._far(code, up, i, stride, j, kind)
        gate, to_gate = self._far(code, gate, i, stride, j, kind)
        near = at(code, dh, i, dh_stride, j)
        dh = _read(code, near, kind)
        f = _Float(code, kind)
        share, slope = act(f, gate)
        value = code.fmul(gate, share)
        # act' = s + g s (1 - s) p'
        rest = code.fmul(value, code.fsub(f(1.0), share))
        rest = f.multiply_add(rest, slope, share)
        d_up, d_gate = code.fmul(dh, value), code.fmul(code.fmul(dh, up), rest)
        _write(code, d_up, to_up)
        _write(code, d_up, near)
        _write(code, d_gate, to_gate)
        _write(code, d_gate, at(code, more, i, dh_stride, j))

    def _far(self, code, array, i, stride, j, kind):
        """Reads numbers; the row after next is fetched, as it is far away."""
        place = at(code, array, i, stride, j)
        if kind != F32:
            ahead = code.gep(place, [code.mul(stride, number(2))])
            code.call(self._fetch, [ahead, I32(0), I32(3), I32(1)])
        return _read(code, place, kind), place


class _Float:
    """Arithmetic on float32 numbers or vectors of them."""

    def __init__(self, code, kind):
        self.code, self.kind = code, kind
        lanes = getattr(kind, 'count', 0)
        self.whole = ir.VectorType(I32, lanes) if lanes else I32

    def __call__(self, value: float) -> ir.Constant:
        return self._constant(self.kind, value)

    @staticmethod
    def _constant(kind, value):
        lanes = getattr(kind, 'count', 0)
        return ir.Constant(kind, [value] * lanes if lanes else value)

    def multiply_add(self, x, y, z):
        fused = ('contract',)
        product = self.code.fmul(x, y, flags=fused)
        return self.code.fadd(product, z, flags=fused)

    def sigmoid(self, x):
        return self.code.fdiv(
            self(1.0), self.code.fadd(self(1.0), self.exp(self.code.fneg(x)))
        )

    def exp(self, x):
        """exp of a number between -87 and 88; NaN stays NaN."""
        code = self.code
        for sign, bound in (('<', -87.0), ('>', 88.0)):
            outside = code.fcmp_ordered(sign, x, self(bound))
            x = code.select(outside, self(bound), x)
        shifted = self.multiply_add(x, self(_LOG2E), self(_ROUNDS))
        n = code.fsub(shifted, self(_ROUNDS))
        rest = x
        for part in _LN2:
            rest = self.multiply_add(n, self(-part), rest)
        total = self(_POLYNOMIAL[0])
        for factor in _POLYNOMIAL[1:]:
            total = self.multiply_add(total, rest, self(factor))
        square = code.fmul(rest, rest)
        total = self.multiply_add(total, square, code.fadd(rest, self(1.0)))
        # 2^n times, by the bits of the exponent.
        bits = code.bitcast(shifted, self.whole)
        bits = code.shl(bits, self._constant(self.whole, 23))
        bits = code.add(bits, code.bitcast(total, self.whole))
        return code.bitcast(bits, self.kind)


def _silu(f: _Float, gate):
    return f.sigmoid(gate), f(1.0)


def _gelu(f: _Float, gate):
    square = f.code.fmul(gate, gate)
    inner = f.multiply_add(square, f(_SCALE * _CUBE), f(_SCALE))
    slope = f.multiply_add(square, f(3 * _SCALE * _CUBE), f(_SCALE))
    return f.sigmoid(f.code.fmul(gate, inner)), slope


# What gives sigmoid(p(g)) and p'(g), in the order of their numbers.
_ACTS: dict[str, Callable] = {'swiglu': _silu, 'geglu': _gelu}
assert tuple(_ACTS) == ACTIVATIONS


def _read(code, address, kind):
    return code.load(address) if kind == F32 else load(code, address, kind)


def _write(code, value, address):
    if value.type == F32:
        code.store(value, address)
    else:
        store(code, value, address)
