"""Replay of a recorded routing."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe.types import Context, Routing, uses


@uses('recorded')
def replay(
    logits: Float[Array, 'G S E'],
    context: Context,
    *,
    fresh_gates: bool = False,
) -> Routing:
    """Sends tokens where they went in an earlier run.

    Args:
      logits: router logits, float32.
      context: mask and recorded are read.
      fresh_gates: whether the weights are the present softmax over the
        recorded experts, which trains the router, or the recorded ones.

    Returns:
      The recorded Routing, with the present logits and mask.

    Raises:
      ValueError: if nothing was recorded.
    """
    recorded = context.recorded
    if recorded is None:
        raise ValueError('replay: the layer was called without recorded')
    weight = recorded.weight
    probs = jax.nn.softmax(logits, axis=-1)
    if fresh_gates:
        chosen = jnp.moveaxis(recorded.expert, 1, -1)
        gates = jnp.take_along_axis(logits, chosen, axis=-1)
        alive = jnp.moveaxis(recorded.live, 1, -1)
        gates = jax.nn.softmax(jnp.where(alive, gates, -jnp.inf), axis=-1)
        weight = jnp.moveaxis(jnp.where(alive, gates, 0.0), -1, 1)
    return recorded._replace(
        weight=weight, probs=probs, logits=logits, mask=context.mask
    )
