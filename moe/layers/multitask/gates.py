"""The softmax gate, which mixes all experts."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe.types import Context, Dense


def softmax(logits: Float[Array, 'G S E'], context: Context) -> Dense:
    """Sends each example to every expert: `gate = softmax(logits)`.

    The result of `top_k` with K = E without renormalising, without its sort.
    Source: Ma et al., MMoE, KDD 2018, eq. 6.

    Args:
      logits: router logits, float32.
      context: only its mask is read.

    Returns:
      A dense Routing.
    """
    probs = jax.nn.softmax(logits, axis=-1)
    weight = jnp.moveaxis(probs, -1, 1)
    return Dense(
        weight=weight,
        valid=jnp.broadcast_to(context.mask[:, None], weight.shape),
        probs=probs,
        logits=logits,
        mask=context.mask,
    )
