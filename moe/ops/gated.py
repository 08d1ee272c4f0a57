"""Gated two-layer experts as one operation, where a kernel knows them.

A rows in all, E experts, D and F the two widths.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from moe.ops import native
from moe.ops.grouped_matmul import grouped_matmuls

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    'swiglu': jax.nn.silu,
    'geglu': jax.nn.gelu,
}


def takes_gated(x: Float[Array, '... D'], activation: str | None) -> bool:
    """Returns whether `gated_experts` is the fastest for these rows.

    It is where the kernels of `moe.ops.native` are taken, in a program for
    CPUs.

    Args:
      x: the rows.
      activation: name of an activation; None for one without a name here.
    """
    known = activation in native.ACTIVATIONS
    return known and jax.default_backend() == 'cpu' and native.takes(x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def gated_experts(
    x: Float[Array, 'A D'],
    up: Float[Array, 'E D F'],
    gate: Float[Array, 'E D F'],
    down: Float[Array, 'E F D'],
    group_sizes: Int[Array, 'E'],
    activation: str,
    padded: bool = False,
) -> Float[Array, 'A D']:
    """Applies its expert to each row: `y = (act(x gate) * x up) down`.

    Rows past the last group give zero. For the gradient the products with `up`
    and `gate` are kept, named 'hidden' for rematerialization, and what is
    between them and `down` is computed again.

    Args:
      x: rows sorted by expert, float.
      up: one matrix an expert, the dtype of `x`.
      gate: one matrix an expert, likewise.
      down: one matrix an expert, likewise.
      group_sizes: rows of each expert, int32, their sum at most A.
      activation: 'swiglu' or 'geglu'.
      padded: whether all experts have A / E rows: without the kernels their
        products are one batched product, in no blocks.

    Returns:
      The outputs, in the dtype of `x`.
    """
    operands = (x, up, gate, down, group_sizes)
    return _outputs(*operands, activation, padded, keep=False)[0]


def _outputs(x, up, gate, down, group_sizes, activation, padded, *, keep):
    def plain(x, up, gate, down, sizes):
        kept = _products(x, (up, gate), sizes, padded)
        h = _hidden(activation, *kept)
        size = len(x) if keep else 0
        (y,) = _products(h, (down,), sizes, padded)
        return y, *(v[:size] for v in kept)

    fused = functools.partial(native.gated, activation=activation, keep=keep)
    operands = (x, up, gate, down, group_sizes)
    return _by_platform(fused, plain, operands)


def _by_platform(fused, plain, operands):
    """On CPUs the kernels, where they take the rows."""

    def on_cpu(x, *rest):
        return (fused if native.takes(x) else plain)(x, *rest)

    return lax.platform_dependent(*operands, cpu=on_cpu, default=plain)


def _products(x, ws, sizes, padded):
    """The products of rows with several matrices of their experts."""
    if not padded:
        return grouped_matmuls(x, ws, sizes)
    rows = x.reshape(len(sizes), -1, x.shape[-1])
    made = (jnp.einsum('end,edf->enf', rows, w) for w in ws)
    return tuple(y.reshape(len(x), -1) for y in made)


def _hidden(activation, up, gate):
    return _ACTIVATIONS[activation](gate) * up


def _forward(x, up, gate, down, group_sizes, activation, padded):
    operands = (x, up, gate, down, group_sizes)
    y, *kept = _outputs(*operands, activation, padded, keep=True)
    kept = [checkpoint_name(v, 'hidden') for v in kept]
    return y, (operands, kept)


def _backward(activation, padded, residuals, dy):
    (x, up, gate, down, group_sizes), kept = residuals

    def plain(x, kept, up, gate, down, dy, sizes):
        h, of_hidden = jax.vjp(functools.partial(_hidden, activation), *kept)
        times = lambda x, *ws: tuple(_products(x, ws, sizes, padded))
        _, of_down = jax.vjp(times, h, down)
        _, of_inner = jax.vjp(times, x, up, gate)
        dh, d_down = of_down((dy,))
        return *of_inner(of_hidden(dh)), d_down

    fused = functools.partial(native.gated_gradients, activation=activation)
    operands = (x, tuple(kept), up, gate, down, dy, group_sizes)
    return *_by_platform(fused, plain, operands), None


gated_experts.defvjp(_forward, _backward)
