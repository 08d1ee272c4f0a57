"""Calls compiled functions with NumPy arrays."""

import ctypes
import functools

import numpy as np
import pytest
from llvmlite import ir

from moe.ops.native.activations import Activations
from moe.ops.native.build import TILES, compiled
from moe.ops.native.gemm import Gemm
from moe.ops.native.kernels import copy
from moe.ops.native.tiles import Kernels

# Every processor that has the tests runs tiles of fewer lanes, too.
over_tiles = pytest.mark.parametrize('tile', list(TILES.values()), ids=str)
SIDES = ((False, False), (False, True), (True, False))


@functools.cache
def engine(tile):
    """Machine code of the kernels and of all products for a tile."""
    module = ir.Module()
    kernels = Kernels(module, tile)
    copy(module, tile.lanes)
    Activations(module, tile.lanes)
    gemms = [Gemm(module, kernels, *sides) for sides in SIDES]
    ((strips, panel),) = {(gemm.strips, gemm.panel) for gemm in gemms}
    return compiled(module), strips, panel


def call(tile, name, *args):
    """Calls a function with arrays and whole numbers."""
    types = [
        ctypes.c_void_p if isinstance(a, np.ndarray) else ctypes.c_int64
        for a in args
    ]
    address = engine(tile)[0].get_function_address(name)
    values = [a.ctypes.data if isinstance(a, np.ndarray) else a for a in args]
    ctypes.CFUNCTYPE(None, *types)(address)(*values)


def whole(rng, *shape):
    """Small whole numbers, whose products float32 sums exactly."""
    return rng.integers(-8, 9, shape).astype(np.float32)


def sigmoid(x):
    return (1 + np.tanh(x / 2)) / 2


def silu(g):
    """The value and the derivative."""
    s = sigmoid(g)
    return g * s, s + g * s * (1 - s)


def gelu(g):
    """The form with tanh: (1 + tanh(u)) / 2 is sigmoid(2 u)."""
    scale = 2 * np.sqrt(2 / np.pi)
    s = sigmoid(scale * (g + 0.044715 * g**3))
    slope = scale * (1 + 3 * 0.044715 * g**2)
    return g * s, s + g * s * (1 - s) * slope
