"""Balanced assignment by Sinkhorn iterations."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from moe.config import PositiveInt
from moe.losses import sum_over
from moe.routing.base import ROUTERS
from moe.routing.choice import choose, take, token_choice
from moe.types import Context, TokenChoice, traits


@ROUTERS.register('sinkhorn')
@traits(looks_ahead='in training', replays=True)
def sinkhorn(
    logits: Float[Array, 'G S E'],
    context: Context,
    *,
    k: PositiveInt = 1,
    iterations: PositiveInt = 8,
) -> TokenChoice:
    """Chooses by a balanced assignment in training, by logits in evaluation.

    Sinkhorn iterations scale `exp(logits)` until every valid token gives a mass
    of 1 and every expert receives the same, over the whole batch; a token goes
    to its K greatest entries of that plan. In evaluation the plan, which needs
    the other tokens, is not used. The gate is `sigmoid(logit)` of the chosen.
    Source: BASE layers, arXiv 2103.16716, with Sinkhorn for the auction
    (arXiv 2202.01169, section 3.1).

    Args:
      logits: router logits, float32.
      context: mask, train, axis_name and routes are read.
      k: K, experts a token.
      iterations: number of times that columns, then rows are scaled.

    Returns:
      A token-choice Routing.

    Raises:
      ValueError: if k is greater than the number of experts.
    """
    score = logits = logits.astype(jnp.float32)
    if context.train:
        score = _balanced(lax.stop_gradient(logits), context, iterations)
    _, expert, valid = choose(context, score, k)
    gates = take(jax.nn.sigmoid(logits), expert)
    probs = jax.nn.softmax(logits, axis=-1)
    return token_choice(expert, gates, probs, logits, context, valid=valid)


def _balanced(logits, context: Context, iterations: int):
    """Returns the logarithm of the plan, up to a constant of each token."""
    valid = context.mask[..., None]

    def scale(_, column):
        row = -jax.nn.logsumexp(logits + column, axis=-1, keepdims=True)
        share = jnp.where(valid, logits + column + row, -jnp.inf)
        # In logarithms: an expert that no token wants has next to no mass. That
        # each has 1, and not T / E, is a constant of all tokens.
        top = jnp.max(share, axis=(0, 1))
        if context.axis_name is not None:
            top = lax.pmax(top, context.axis_name)
        top = jnp.where(jnp.isfinite(top), top, 0.0)  # of no valid token
        mass = jnp.sum(jnp.exp(share - top), axis=(0, 1))
        mass = sum_over(mass, context.axis_name)
        mass = jnp.maximum(mass, jnp.finfo(mass.dtype).tiny)
        return column - top - jnp.log(mass)

    column = jnp.zeros((logits.shape[-1],), logits.dtype)
    return logits + lax.fori_loop(0, iterations, scale, column)
