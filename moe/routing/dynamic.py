"""Routers in which the number of experts depends on the token."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe.config import Fraction, PositiveFloat, PositiveInt
from moe.routing.base import ROUTERS
from moe.routing.choice import select, token_choice
from moe.types import Context, Routing, traits


@ROUTERS.register('top_p')
def top_p(
    logits: Float[Array, 'G S E'],
    context: Context,
    *,
    p: Fraction = 0.4,
    k: PositiveInt = 4,
) -> Routing:
    """The smallest set of experts whose probabilities reach p, at most K.

    A choice exists while the mass of those before it is less than p; its gate
    is its probability. Source: arXiv 2403.07652.

    Args:
      logits: router logits, float32.
      context: only its mask is read.
      p: mass to reach.
      k: K, most experts of a token.

    Returns:
      A token-choice Routing; later choices of a sure token are not live.

    Raises:
      ValueError: if k is greater than the number of experts.
    """
    probs = jax.nn.softmax(logits, axis=-1)
    gates, expert = select(probs, k)
    before = jnp.cumsum(gates, axis=-1) - gates
    live = before < p
    live = live.at[..., 0].set(True)
    return token_choice(expert, gates, probs, logits, context, live=live)


@ROUTERS.register('relu')
@traits(uses=['penalty'])
def relu(
    logits: Float[Array, 'G S E'],
    context: Context,
    *,
    k: PositiveInt = 4,
    sparsity: Fraction = 0.75,
    penalty_rate: PositiveFloat = 1.2,
) -> Routing:
    """Every expert with a positive logit, at most K; the gate is the logit.

    `gate = relu(logits)`. The L1 loss on the gates, whose coefficient is the
    layer's own state, holds the share of zero gates
    at `sparsity`: after each step the coefficient is multiplied by
    `penalty_rate^sign(sparsity - share)` (`updated_penalty`).
    Source: ReMoE, arXiv 2412.14711.

    Args:
      logits: router logits, float32.
      context: only its mask is read.
      k: K, most experts of a token.
      sparsity: share of the gates that shall be zero, `1 - wanted K / E`.
      penalty_rate: factor of the coefficient's change in a step.

    Returns:
      A token-choice Routing; gates that are zero are not live. `probs` is the
      gates over their sum, and uniform where all are zero.

    Raises:
      ValueError: if k is greater than the number of experts.
    """
    del sparsity, penalty_rate  # read by the train step
    gates = jax.nn.relu(logits)
    total = jnp.sum(gates, axis=-1, keepdims=True)
    some = total > 0
    probs = jnp.where(
        some, gates / jnp.where(some, total, 1.0), 1.0 / logits.shape[-1]
    )
    top, expert = select(gates, k)
    return token_choice(expert, top, probs, logits, context, live=top > 0)
