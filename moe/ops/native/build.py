"""Builds the handlers for this processor, and gives them to XLA."""

import ctypes
import functools
import os
import pathlib
import re
from typing import Any

import jax
import jaxlib
import llvmlite.binding as llvm
from llvmlite import ir

from moe.ops.native.activations import Activations
from moe.ops.native.experts import Gated, GatedDown, GatedRows
from moe.ops.native.gemm import Gemm
from moe.ops.native.handlers import Handler
from moe.ops.native.movement import Dots, Gather, Order
from moe.ops.native.products import Outer, Rows
from moe.ops.native.tiles import Kernels, Tile

# By the features of processors, the best first: 32 registers of 16 numbers,
# 16 of 8, 32 of 4.
TILES = {
    ('avx512f',): Tile(lanes=16, vectors=2, rows=14),
    ('avx2', 'fma'): Tile(lanes=8, vectors=2, rows=6),
    ('neon',): Tile(lanes=4, vectors=3, rows=8),
}

_ENGINES: list[llvm.ExecutionEngine] = []  # machine code that XLA may call


class Unsupported(RuntimeError):
    """The processor, or the version of XLA, is not one the kernels are for."""


def _version() -> tuple[int, int]:
    """Reads the version of the interface from XLA's header."""
    header = 'include/xla/ffi/api/c_api.h'
    path = pathlib.Path(jaxlib.__file__).parent / header
    pattern = r'define XLA_FFI_API_M(?:AJ|IN)OR (\d+)'
    try:
        found = re.findall(pattern, path.read_text())
    except OSError:
        found = []
    if len(found) != 2:
        raise Unsupported(f'no version of the interface of XLA in {path}')
    major, minor = map(int, found)
    if major != 0 or minor < 3:
        raise Unsupported(f'version {major}.{minor} of the interface of XLA')
    return major, minor


def _tile(features: dict[str, bool]) -> Tile:
    for needed, tile in TILES.items():
        if all(features.get(name) for name in needed):
            return tile
    raise Unsupported('a processor without AVX2, AVX-512 or NEON')


def _handlers(
    tile: Tile, version: tuple[int, int]
) -> tuple[ir.Module, list[str]]:
    """Returns the LLVM module of all handlers, and their names."""
    module = ir.Module(name='moe')
    kernels = Kernels(module, tile)
    activations = Activations(module, tile.lanes)
    plain = Gemm(module, kernels, False, False)
    right = Gemm(module, kernels, False, True)
    left = Gemm(module, kernels, True, False)
    products: dict[str, Any] = {
        'rows_0': Rows(plain),
        'rows_1': Rows(right),
        'outer': Outer(left),
        'gated': Gated(module, tile.lanes, plain, activations),
        'gated_rows': GatedRows(right, activations),
        'gated_down': GatedDown(left, activations),
        'gather': Gather(module, tile.lanes),
        'dots': Dots(module, tile.lanes),
        'order': Order(),
    }
    threads = _processors()
    for name, product in products.items():
        Handler(module, name, product, threads, version)
    return module, list(products)


def _processors() -> int:
    """Returns the number of processors that this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def compiled(module: ir.Module) -> llvm.ExecutionEngine:
    """Returns the machine code of a module, for this processor.

    Args:
      module: the module.
    """
    module.triple = llvm.get_process_triple()
    # Vectors of 512 bits, where LLVM would rather take two of 256.
    wanted = f'{features().flatten()},-prefer-256-bit'
    target = llvm.Target.from_triple(module.triple)
    machine = target.create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=wanted, opt=3
    )
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(parsed, builder)
    engine = llvm.create_mcjit_compiler(parsed, machine)
    engine.finalize_object()
    return engine


def features() -> llvm.FeatureMap:
    """Starts LLVM; returns whether this processor has each of its features."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.get_host_cpu_features()


@functools.cache
def register(prefix: str = 'moe', tile: Tile | None = None) -> None:
    """Builds the handlers and registers each as `PREFIX_NAME`, once.

    Args:
      prefix: first part of the names.
      tile: the sizes of a tile; None are the best for this processor.

    Raises:
      Unsupported: on a processor, or with an XLA, that they are not for.
    """
    version = _version()
    module, names = _handlers(tile or _tile(features()), version)
    engine = compiled(module)
    for name in names:
        export(engine, name, f'{prefix}_{name}')


def export(engine: llvm.ExecutionEngine, name: str, target: str) -> None:
    """Registers a handler, for as long as the process lives.

    Args:
      engine: its machine code.
      name: its name there.
      target: its name for `jax.ffi.ffi_call`.

    Raises:
      Unsupported: if XLA does not take it.
    """
    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype = ctypes.py_object
    capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    handler = capsule(engine.get_function_address(name), None, None)
    try:
        jax.ffi.register_ffi_target(target, handler, platform='cpu')
    except jax.errors.JaxRuntimeError as error:
        raise Unsupported(f'XLA refuses {target}: {error}') from error
    _ENGINES.append(engine)
