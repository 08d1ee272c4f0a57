"""Soft mixtures: slots are averages of tokens, tokens of slots."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_EPSILON = 1e-6


class SoftRouting(NamedTuple):
    """Weights between tokens and slots, both dense.

    Attributes:
      dispatch: [G, S, N] float32, share of each token in a slot; sums to 1
        over the live tokens.
      combine: [G, S, N] float32, share of each slot in a token; sums to 1 over
        the slots, 0 for padding.
      logits: [G, S, N] float32.
    """

    dispatch: Float[Array, 'G S N']
    combine: Float[Array, 'G S N']
    logits: Float[Array, 'G S N']


def soft(
    x: Float[Array, 'G S D'],
    slots: Float[Array, 'D N'],
    scale: Float[Array, ''],
    mask: Bool[Array, 'G S'],
) -> SoftRouting:
    """Weights of a soft mixture of N slots.

    `logits = l2norm(x) . (scale * l2norm(slots))`; dispatch is their softmax
    over the tokens of the group, combine the softmax over the slots. Nothing
    drops and all is differentiable; every token sees its whole group.
    Source: arXiv 2308.00951, algorithm 1 and 2.

    Args:
      x: tokens, float32.
      slots: parameters of the slots, float32.
      scale: learned, float32.
      mask: live tokens.

    Returns:
      The weights.
    """
    norm = lambda v, axis: (
        v
        * jax.lax.rsqrt(
            jnp.sum(jnp.square(v), axis=axis, keepdims=True) + _EPSILON**2
        )
    )
    logits = jnp.einsum(
        'gsd,dn->gsn',
        norm(x, -1),
        scale * norm(slots, 0),
        precision=jax.lax.Precision.HIGHEST,
    )
    live = mask[..., None]
    # A group without a live token has weights 0, not NaN.
    masked = jnp.where(live | ~jnp.any(live, 1, keepdims=True), logits, -1e30)
    return SoftRouting(
        dispatch=jax.nn.softmax(masked, axis=1) * live,
        combine=jax.nn.softmax(logits, axis=-1) * live,
        logits=logits,
    )
