"""Calls compiled functions with NumPy arrays."""

import ctypes
import functools

import numpy as np
import pytest
from llvmlite import ir

from moe.ops.native.build import TILES, compiled
from moe.ops.native.gemm import Gemm
from moe.ops.native.kernels import Kernels

# Every processor that has the tests runs tiles of fewer lanes, too.
over_tiles = pytest.mark.parametrize('tile', list(TILES.values()), ids=str)
SIDES = ((False, False), (False, True), (True, False))


@functools.cache
def engine(tile):
    """Machine code of the kernels and of all products for a tile."""
    module = ir.Module()
    kernels = Kernels(module, tile)
    gemms = [Gemm(module, kernels, *sides) for sides in SIDES]
    assert len({gemm.scratch for gemm in gemms}) == 1
    return compiled(module), gemms[0].scratch


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
