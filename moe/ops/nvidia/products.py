"""Which implementation of a grouped product a GPU of NVIDIA's takes."""

import functools

import jax
import jax.numpy as jnp

from moe.ops import blocks
from moe.ops.nvidia import padded
from moe.ops.nvidia.devices import hopper_cores

_DTYPES = (jnp.bfloat16, jnp.float16)
# Narrower matrices would be mostly padding in the kernels.
_NARROWEST = 64


# Traced once for each shape, also in the programs for other platforms.
@functools.partial(jax.jit, static_argnums=3)
def rows_times(xs, ws, group_sizes, transpose: bool):
    """The sum of rows times w[e], or its transpose; empty rows give zero."""
    cores = _cores(xs[0], *(width for w in ws for width in w.shape[1:]))
    if cores is None:
        pairs = zip(xs, ws, strict=True)
        ys = [padded.rows_times(*v, group_sizes, transpose) for v in pairs]
        return functools.reduce(jnp.add, ys)
    # Not before: Pallas takes a second to import.
    from moe.ops.nvidia import hopper

    @jax.custom_batching.sequential_vmap
    def product(xs, ws, group_sizes):
        return hopper.rows_times(xs, ws, group_sizes, transpose, cores)

    return product(xs, ws, group_sizes)


@jax.jit
def outer(x, dy, group_sizes):
    """`sum_a x[a] dy[a]^T` over the rows of each group, [E, D, F]."""
    cores = _cores(x, x.shape[1], dy.shape[1])
    if cores is None:
        return blocks.outer(x, dy, group_sizes)
    from moe.ops.nvidia import hopper

    @jax.custom_batching.sequential_vmap
    def product(x, dy, group_sizes):
        return hopper.outer(x, dy, group_sizes, cores)

    return product(x, dy, group_sizes)


def _cores(x, *widths):
    """The multiprocessors for the kernels, None where they do not fit."""
    fits = x.dtype in _DTYPES and x.size > 0 and min(widths) >= _NARROWEST
    return hopper_cores(x) if fits else None
