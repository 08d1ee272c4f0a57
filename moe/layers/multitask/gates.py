"""Gates over all experts."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe.routing.choice import token_choice
from moe.types import Context, Routing


def softmax(logits: Float[Array, 'G S E'], context: Context) -> Routing:
    """Sends each example to every expert: `gate = softmax(logits)`.

    What `top_k` with K = E and no renormalising gives, without its sort.
    Source: Ma et al., MMoE, KDD 2018, eq. 6.

    Args:
      logits: router logits, float32.
      context: only its mask is read.

    Returns:
      A token-choice Routing, experts in their order.
    """
    probs = jax.nn.softmax(logits, axis=-1)
    everyone = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    expert = jnp.broadcast_to(everyone, logits.shape)
    return token_choice(expert, probs, probs, logits, context)
