"""Grouped products of float32 on CPU, by kernels compiled for the processor.

XLA's own product of many small groups reads and packs too much; see
`docs/explanation/performance.md`. The kernels are LLVM code, made by llvmlite
and called through XLA's foreign function interface.
"""

import functools

import jax

from moe.ops.native.calls import outer, rows_times


@functools.cache
def available() -> bool:
    """Returns whether this process can use the kernels.

    They are built at the first call, in about a second. Without llvmlite, on
    a processor that they are not for, or with an XLA whose interface is not
    known, it is False.
    """
    if jax.default_backend() != 'cpu':
        return False
    try:
        from moe.ops.native.build import Unsupported, register
    except ImportError:
        return False
    try:
        register()
    except Unsupported:
        return False
    return True


__all__ = ['available', 'outer', 'rows_times']
