"""Products of consecutive groups of rows, each with its expert's matrix.

A rows in all, E experts, D and F the two widths. Rows are sorted by expert;
`group_sizes[e]` of them belong to expert e, and rows past their sum are empty.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from moe.ops import blocks, native, nvidia
from moe.ops.meshes import is_whole, platform

_BFLOAT16 = jnp.dtype(jnp.bfloat16)


def grouped_matmul(
    x: Float[Array, 'A D'],
    w: Float[Array, 'E D F'],
    group_sizes: Int[Array, 'E'],
) -> Float[Array, 'A F']:
    """Multiplies each group of rows with its own matrix.

    `y[a] = x[a] @ w[e]` for the rows a of group e; `y[a] = 0` for rows past
    the last group. Differentiable in `x` and `w`. The kernel is chosen by the
    platform the program is lowered for, see docs/explanation/performance.md;
    what it costs follows the rows and not E.
    Source: the grouped GEMM of MegaBlocks, arXiv 2211.15841.

    Args:
      x: rows sorted by group, float.
      w: one matrix a group, the dtype of `x`.
      group_sizes: rows of each group, int32, their sum at most A.

    Returns:
      The products, in the dtype of `x`, accumulated in float32.

    Raises:
      ValueError: if the shapes do not fit each other.

    >>> x = jnp.array([[1.0], [2.0], [3.0]])
    >>> w = jnp.array([[[10.0]], [[100.0]]])
    >>> grouped_matmul(x, w, jnp.array([1, 2])).ravel().tolist()
    [10.0, 200.0, 300.0]
    """
    return grouped_matmuls(x, (w,), group_sizes)[0]


def grouped_matmuls(
    x: Float[Array, 'A D'],
    ws: Sequence[Float[Array, 'E D F']],
    group_sizes: Int[Array, 'E'],
) -> tuple[Float[Array, 'A F'], ...]:
    """Multiplies the same rows with several matrices of each group.

    `grouped_matmul` of each of `ws`; kernels for TPUs read the rows once, and
    add up the gradient of `x` where they make it.

    Args:
      x: rows sorted by group, float.
      ws: arrays of one matrix a group, the dtype of `x`.
      group_sizes: rows of each group, int32, their sum at most A.

    Returns:
      The products, in the dtype of `x`, accumulated in float32.

    Raises:
      ValueError: if the shapes do not fit each other.
    """
    for w in ws:
        if x.shape[1] != w.shape[1] or group_sizes.shape[0] != w.shape[0]:
            raise ValueError(
                f'grouped_matmul: x {x.shape}, w {w.shape} and group_sizes '
                f'{group_sizes.shape} must be [A,D], [E,D,F] and [E]'
            )
    return _matmuls(x, tuple(ws), group_sizes)


@jax.custom_vjp
def _matmuls(x, ws, group_sizes):
    def each(x, ws, sizes):
        times = functools.partial(_rows_times, transpose=False)
        return tuple(times((x,), (w,), sizes) for w in ws)

    return _by_kernel('products', each, (x, ws), group_sizes, ws)


def _forward(x, ws, group_sizes):
    return _matmuls(x, ws, group_sizes), (x, ws, group_sizes)


def _backward(residuals, dys):
    x, ws, group_sizes = residuals
    dys = tuple(dy.astype(x.dtype) for dy in dys)

    def outer(x, dys, sizes):
        return tuple(_outer(x, dy, sizes) for dy in dys)

    def of_rows(dys):
        back = functools.partial(_rows_times, transpose=True)
        operands = dys, ws
        return _by_kernel('summed_products', back, operands, group_sizes, ws)

    def of_matrices():
        operands = x, dys
        return _by_kernel('outer_products', outer, operands, group_sizes, ws)

    if len(ws) > 1:
        # Copies of the matrices in the dtype of `x` are not held any longer
        # when their gradients are.
        return of_rows(dys), of_matrices(), None
    (dy,), (dw,) = dys, of_matrices()
    # On GPUs XLA would put off the gradient of the matrix, and keep what it is
    # made of.
    dy, dw = lax.platform_dependent(
        dy,
        dw,
        cuda=lambda *v: lax.optimization_barrier(v),
        default=lambda *v: v,
    )
    return of_rows((dy,)), (dw,), None


_matmuls.defvjp(_forward, _backward)


def _by_kernel(name, elsewhere, operands, group_sizes, ws):
    """Takes a kernel for TPUs where the program is lowered for one."""
    mesh = jax.sharding.get_abstract_mesh()
    rows = jax.tree.leaves(operands)[0]
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((operands, ws))}
    alike = len({w.shape for w in ws}) == 1 and dtypes == {_BFLOAT16}
    if platform(mesh) == 'tpu' and alike and is_whole(mesh):
        from moe.ops import tpu  # only here: the import takes a second

        if tpu.fits(len(rows), ws[0].shape, len(ws)):
            kernel = jax.custom_batching.sequential_vmap(getattr(tpu, name))
            return lax.platform_dependent(
                *operands, group_sizes, tpu=kernel, default=elsewhere
            )
    return elsewhere(*operands, group_sizes)


def _rows_times(xs, ws, group_sizes, *, transpose):
    """Sums rows times w[e], or its transpose; empty rows give zero."""

    def summed(times):
        def run(xs, ws, group_sizes):
            pairs = zip(xs, ws, strict=True)
            ys = [times(*v, group_sizes, transpose=transpose) for v in pairs]
            return functools.reduce(jnp.add, ys)

        return run

    return lax.platform_dependent(
        xs,
        ws,
        group_sizes,
        cpu=summed(_rows_times_cpu),
        cuda=lambda *v: nvidia.rows_times(*v, transpose),
        default=summed(_rows_times_ragged),
    )


def _outer(x, dy, group_sizes):
    """`sum_a x[a] dy[a]^T` over the rows of each group, in their dtype."""
    return lax.platform_dependent(
        x,
        dy,
        group_sizes,
        cpu=_outer_cpu,
        cuda=nvidia.outer,
        default=_outer_ragged,
    )


def _rows_times_ragged(x, w, group_sizes, *, transpose):
    numbers = lax.RaggedDotDimensionNumbers(
        dot_dimension_numbers=(((1,), (2 if transpose else 1,)), ((), ())),
        lhs_ragged_dimensions=[0],
        rhs_group_dimensions=[0],
    )
    y = _ragged_dot(numbers, x, w, group_sizes).astype(x.dtype)
    return jnp.where(blocks.filled(x, group_sizes), y, 0)


def _outer_ragged(x, dy, group_sizes):
    # Kernels may read the empty rows past the last group: no NaN from there.
    filled = blocks.filled(x, group_sizes)
    numbers = lax.RaggedDotDimensionNumbers(
        dot_dimension_numbers=(((0,), (0,)), ((), ())),
        lhs_ragged_dimensions=[0],
        rhs_group_dimensions=[],
    )
    x, dy = jnp.where(filled, x, 0), jnp.where(filled, dy, 0)
    return _ragged_dot(numbers, x, dy, group_sizes).astype(x.dtype)


def _ragged_dot(numbers, x, y, group_sizes):
    """The native product; under vmap one after another, for want of a rule."""

    @jax.custom_batching.sequential_vmap
    def product(x, y, group_sizes):
        return lax.ragged_dot_general(
            x, y, group_sizes, numbers, preferred_element_type=jnp.float32
        )

    return product(x, y, group_sizes)


def _rows_times_cpu(x, w, group_sizes, *, transpose):
    if native.takes(x):
        return native.rows_times(x, w, group_sizes, transpose)
    return blocks.rows_times(x, w, group_sizes, transpose)


def _outer_cpu(x, dy, group_sizes):
    # The kernels are for float32 alone.
    product = native.outer if native.takes(x) else blocks.outer
    return product(x, dy, group_sizes)
