"""Soft mixtures: slots are averages of tokens, tokens are averages of slots.

G groups, S tokens a group, D width, N slots of all experts together.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe.config import PositiveFloat
from moe.routing.base import ROUTERS
from moe.types import Context, traits

_EPSILON = 1e-6


class SoftRouting(NamedTuple):
    """The dense weights between tokens and slots.

    Attributes:
      dispatch: [G, S, N] float32, the share of each token in a slot; it sums
        to 1 over the valid tokens.
      combine: [G, S, N] float32, the share of each slot in a token; it sums to
        1 over the slots, and is 0 for padding.
      logits: [G, S, N] float32.
    """

    dispatch: Float[Array, 'G S N']
    combine: Float[Array, 'G S N']
    logits: Float[Array, 'G S N']


@ROUTERS.register('soft')
@traits(looks_ahead='always')
def soft(
    logits: Float[Array, 'G S N'],
    context: Context,
    *,
    capacity_factor: PositiveFloat = 1.0,
) -> SoftRouting:
    """Mixes all tokens into slots, and all slots into tokens.

    The dispatch weights are the softmax over the tokens of the group, the
    combine weights the softmax over the slots. Nothing is dropped and all is
    differentiable; every token sees its whole group. There are no assignments
    of tokens to experts: `SoftMoE` is the layer of this router.
    Source: arXiv 2308.00951, algorithms 1 and 2.

    Args:
      logits: the logit of each token for each slot, float32, see `slot_logits`.
      context: only its mask is read.
      capacity_factor: number of slots of all experts over the tokens of a
        group, read by `SoftMoE`; at 1 experts cost as much as a dense layer.

    Returns:
      The weights.
    """
    del capacity_factor  # the layer reads it: the number of slots
    logits, valid = logits.astype(jnp.float32), context.mask[..., None]
    # A group without a valid token has weights 0, not NaN.
    masked = jnp.where(valid | ~jnp.any(valid, 1, keepdims=True), logits, -1e30)
    return SoftRouting(
        dispatch=jax.nn.softmax(masked, axis=1) * valid,
        combine=jax.nn.softmax(logits, axis=-1) * valid,
        logits=logits,
    )


def slot_logits(
    x: Float[Array, 'G S D'],
    slots: Float[Array, 'D N'],
    scale: Float[Array, ''],
) -> Float[Array, 'G S N']:
    """Returns `l2norm(x) . (scale * l2norm(slots))`, a soft mixture's logits.

    Source: arXiv 2308.00951, section 2.3 (the normalisation).

    Args:
      x: tokens, float32.
      slots: parameters of the N slots, float32.
      scale: learned scale, float32.

    Returns:
      The logits, float32.
    """
    norm = lambda v, axis: (
        v
        * jax.lax.rsqrt(
            jnp.sum(jnp.square(v), axis=axis, keepdims=True) + _EPSILON**2
        )
    )
    return jnp.einsum(
        'gsd,dn->gsn',
        norm(x, -1),
        scale * norm(slots, 0),
        precision=jax.lax.Precision.HIGHEST,
    )
