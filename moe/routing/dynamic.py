"""Routers in which the number of experts depends on the token."""

from typing import Annotated

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from moe.config import Fraction, OneOf, PositiveInt
from moe.routing.base import ROUTERS
from moe.routing.choice import choose, take, token_choice
from moe.routing.state import PENALTY_RULES, SparsityRule
from moe.types import Context, TokenChoice, traits

_SPARSITY = SparsityRule()


@ROUTERS.register('top_p')
@traits(replays=True)
def top_p(
    logits: Float[Array, 'G S E'],
    context: Context,
    *,
    p: Fraction = 0.4,
    k: PositiveInt = 4,
) -> TokenChoice:
    """Chooses the fewest experts whose probabilities reach p, at most K.

    A choice exists while the mass of those before it is less than p, that is,
    while that of the others is more than 1 - p; its gate is its probability.
    Source: arXiv 2403.07652.

    Args:
      logits: router logits, float32.
      context: mask and routes are read.
      p: probability mass to reach.
      k: K, the largest number of experts of a token.

    Returns:
      A token-choice Routing; later choices of a sure token are not valid.

    Raises:
      ValueError: if k is greater than the number of experts.
    """
    logits = logits.astype(jnp.float32)
    probs = jax.nn.softmax(logits, axis=-1)
    _, expert, valid = choose(context, logits, k)
    gates = take(probs, expert)
    if valid is not None:
        return token_choice(expert, gates, probs, logits, context, valid=valid)
    # Summed from the least on: small masses vanish in sums with large ones.
    others = lax.cumsum(jnp.sort(probs), axis=probs.ndim - 1)[..., ::-1]
    # A mass too small for float32 is still more than 0.
    valid = (others[..., :k] > 1 - p) | (p == 1)
    valid = valid.at[..., 0].set(True)
    return token_choice(expert, gates, probs, logits, context, valid=valid)


@ROUTERS.register('relu')
@traits(state=lambda options: {'penalty': options['penalty']}, replays=True)
def relu(
    logits: Float[Array, 'G S E'],
    context: Context,
    *,
    k: PositiveInt = 4,
    penalty: Annotated[SparsityRule, OneOf(PENALTY_RULES)] = _SPARSITY,
) -> TokenChoice:
    """Chooses every expert with a positive logit, at most K.

    `gate = relu(logits)`. The L1 loss on the gates, whose coefficient is the
    router's own state 'penalty', holds the share of gates that are zero
    (`SparsityRule`). Both see all positive gates, also those beyond K: the
    source has no such limit, and a K below the number of experts that the rule
    leaves active cuts off gates that are meant to be there.
    Source: ReMoE, arXiv 2412.14711.

    Args:
      logits: router logits, float32.
      context: mask and routes are read.
      k: K, the largest number of experts of a token.
      penalty: the rule that moves the coefficient of the L1 loss, and weighs
        the gates in it.

    Returns:
      A token-choice Routing; gates that are zero are not valid. `probs` is the
      gates over their sum, and uniform where all are zero.

    Raises:
      ValueError: if k is greater than the number of experts.
    """
    logits = logits.astype(jnp.float32)
    gates = jax.nn.relu(logits)
    total = jnp.sum(gates, axis=-1, keepdims=True)
    some = total > 0
    probs = jnp.where(
        some, gates / jnp.where(some, total, 1.0), 1.0 / logits.shape[-1]
    )
    share = penalty.active_share
    top, expert, valid = choose(context, gates, k)
    valid = top > 0 if valid is None else valid
    routing = token_choice(expert, top, probs, logits, context, valid=valid)
    return routing.replace(
        penalized_gates=gates,
        active_share=None if share is None else jnp.float32(share),
    )
