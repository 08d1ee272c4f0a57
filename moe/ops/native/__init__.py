"""Grouped products and row movements of float32 on CPU, by kernels of our own.

XLA's own product of many small groups reads and packs too much; see
`docs/explanation/performance.md`. The kernels are LLVM code, made by llvmlite
for the processor and called through XLA's foreign function interface.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from moe.ops.meshes import is_whole
from moe.ops.native.calls import (
    ACTIVATIONS,
    dots,
    gated,
    gated_gradients,
    gather,
    order,
    outer,
    rows_times,
)


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


def takes(x: jax.Array, dtype: Any = jnp.float32) -> bool:
    """Returns whether a kernel can be taken, in a program for CPUs.

    The compiler cannot split them, so there must be no axis of a mesh by which
    it could.

    Args:
      x: the kernel's first argument.
      dtype: what the kernel is for.
    """
    mesh = jax.sharding.get_abstract_mesh()
    # All platforms are traced; only for CPUs the kernels are worth building.
    device = mesh.abstract_device
    meant = device is None or device.platform == 'cpu'
    return (
        x.dtype == dtype
        and x.size > 0
        and is_whole(mesh)
        and meant
        and available()
    )


__all__ = [
    'ACTIVATIONS',
    'available',
    'dots',
    'gated',
    'gated_gradients',
    'gather',
    'order',
    'outer',
    'rows_times',
    'takes',
]
