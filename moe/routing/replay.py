"""A router that replays a recorded routing."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe.routing.base import ROUTERS
from moe.types import Context, Routing, TokenChoice, traits


@ROUTERS.register('replay')
@traits(reads=['recorded'])
def replay(
    logits: Float[Array, 'G S E'],
    context: Context,
    *,
    fresh_gates: bool = False,
) -> Routing:
    """Sends tokens to the experts of an earlier, recorded run.

    Args:
      logits: router logits, float32.
      context: mask and recorded are read.
      fresh_gates: whether the weights are the present softmax over the
        recorded experts, which trains the router, and not the recorded ones;
        for recordings of token choice only.

    Returns:
      The recorded Routing, with the present logits and mask.

    Raises:
      ValueError: if nothing was recorded, or `fresh_gates` of expert choice.
    """
    recorded = context.recorded
    if recorded is None:
        raise ValueError('replay: the layer was called without recorded')
    logits = logits.astype(jnp.float32)
    probs = jax.nn.softmax(logits, axis=-1)
    if recorded.columns_are_tokens:
        exists = context.mask[:, None]
    else:
        group = jnp.arange(len(context.mask))[:, None, None]
        exists = context.mask[group, recorded.assignment_token()]
    valid = recorded.valid & exists
    balance_mask, weight = recorded.balance_mask, recorded.weight
    if fresh_gates:
        if not isinstance(recorded, TokenChoice):
            raise ValueError(
                'replay: fresh_gates needs a token-choice recording'
            )
        weight = _fresh(probs, logits, recorded.expert, valid)
    return recorded.replace(
        weight=weight,
        valid=valid,
        probs=probs,
        logits=logits,
        mask=context.mask,
        balance_mask=None if balance_mask is None else balance_mask & valid,
        unbiased_assignments=None,
        penalized_gates=None,
        active_share=None,
    )


def _fresh(probs, logits, expert, valid):
    """Returns present gates of the recorded experts; if K = 1 a probability."""
    chosen = jnp.moveaxis(expert, 1, -1)
    if chosen.shape[-1] == 1:
        gates = jnp.take_along_axis(probs, chosen, axis=-1)
    else:
        valid = jnp.moveaxis(valid, 1, -1)
        some = jnp.any(valid, axis=-1, keepdims=True)
        gates = jnp.take_along_axis(logits, chosen, axis=-1)
        gates = jnp.where(valid | ~some, gates, -jnp.inf)
        gates = jnp.where(valid, jax.nn.softmax(gates, axis=-1), 0.0)
    return jnp.moveaxis(gates, -1, 1)
