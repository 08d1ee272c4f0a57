"""The gate that mixes all experts."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe.types import Context, Routing


def softmax(logits: Float[Array, 'G S E'], context: Context) -> Routing:
    """Sends each example to every expert: `gate = softmax(logits)`.

    What `top_k` with K = E and no renormalising gives, without its sort, and
    without a list of who chose whom: assignment [g, e, s] is to expert e.
    Source: Ma et al., MMoE, KDD 2018, eq. 6.

    Args:
      logits: router logits, float32.
      context: only its mask is read.

    Returns:
      A Routing of no `expert`.
    """
    probs = jax.nn.softmax(logits, axis=-1)
    weight = jnp.moveaxis(probs, -1, 1)
    return Routing(
        expert=None,
        weight=weight,
        live=jnp.broadcast_to(context.mask[:, None], weight.shape),
        probs=probs,
        logits=logits,
        mask=context.mask,
    )
