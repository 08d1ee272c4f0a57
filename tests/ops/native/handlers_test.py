"""Handlers: as many threads as they may have, the same numbers always."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from llvmlite import ir

from moe.ops.native.build import TILES, Unsupported, compiled, export
from moe.ops.native.gemm import Gemm
from moe.ops.native.handlers import Handler
from moe.ops.native.products import Rows
from moe.ops.native.tiles import Kernels
from tests.ops.native.common import whole

TILE = list(TILES.values())[-1]


@pytest.mark.parametrize('threads', [1, 2, 5])
def test_threads(threads):
    module = ir.Module()
    gemm = Gemm(module, Kernels(module, TILE), False, False)
    Handler(module, 'rows', Rows(gemm), threads, (0, 3))
    engine = compiled(module)
    export(engine, 'rows', f'test_threads_{threads}')
    rng = np.random.default_rng(0)
    x, w = whole(rng, 64, 5), whole(rng, 2, 5, 7)
    tasks = [[i % 2, 8 * i, 8] for i in range(8)]
    out = jax.ShapeDtypeStruct((64, 7), jnp.float32)
    call = jax.ffi.ffi_call(f'test_threads_{threads}', out)
    y = jax.jit(call)(x, w, np.array(tasks, np.int32))
    desired = [x[8 * i : 8 * i + 8] @ w[i % 2] for i in range(8)]
    np.testing.assert_array_equal(y, np.concatenate(desired))


def test_another_version_of_the_interface_is_refused_by_xla():
    module = ir.Module()
    gemm = Gemm(module, Kernels(module, TILE), False, False)
    Handler(module, 'rows', Rows(gemm), 1, (9, 0))
    engine = compiled(module)
    with pytest.raises(Unsupported, match='version'):
        export(engine, 'rows', 'test_version')
