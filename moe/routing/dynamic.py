"""Routers in which the number of experts depends on the token."""

from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe.config import Fraction, OneOf, PositiveInt
from moe.routing.base import ROUTERS
from moe.routing.choice import select, token_choice
from moe.routing.state import PENALTY_RULES, SparsityRule
from moe.types import Context, State, TokenChoice, traits

_SPARSITY = SparsityRule()


@ROUTERS.register('top_p')
def top_p(
    logits: Float[Array, 'G S E'],
    context: Context,
    *,
    p: Fraction = 0.4,
    k: PositiveInt = 4,
) -> TokenChoice:
    """Chooses the fewest experts whose probabilities reach p, at most K.

    A choice exists while the mass of those before it is less than p; its gate
    is its probability. Source: arXiv 2403.07652.

    Args:
      logits: router logits, float32.
      context: only its mask is read.
      p: probability mass to reach.
      k: K, the largest number of experts of a token.

    Returns:
      A token-choice Routing; later choices of a sure token are not valid.

    Raises:
      ValueError: if k is greater than the number of experts.
    """
    probs = jax.nn.softmax(logits, axis=-1)
    gates, expert = select(probs, k)
    before = jnp.cumsum(gates, axis=-1) - gates
    valid = before < p
    valid = valid.at[..., 0].set(True)
    return token_choice(expert, gates, probs, logits, context, valid=valid)


@ROUTERS.register('relu')
@traits(state=lambda options: {'penalty': options['penalty']})
def relu(
    logits: Float[Array, 'G S E'],
    context: Context,
    *,
    k: PositiveInt = 4,
    penalty: Annotated[State, OneOf(PENALTY_RULES)] = _SPARSITY,
) -> TokenChoice:
    """Chooses every expert with a positive logit, at most K.

    `gate = relu(logits)`. The L1 loss on the gates, whose coefficient is the
    router's own state 'penalty', holds the share of gates that are zero
    (`SparsityRule`).
    Source: ReMoE, arXiv 2412.14711.

    Args:
      logits: router logits, float32.
      context: only its mask is read.
      k: K, the largest number of experts of a token.
      penalty: the rule that moves the coefficient of the L1 loss.

    Returns:
      A token-choice Routing; gates that are zero are not valid. `probs` is the
      gates over their sum, and uniform where all are zero.

    Raises:
      ValueError: if k is greater than the number of experts.
    """
    del penalty  # declared as a state, which the L1 loss reads
    gates = jax.nn.relu(logits)
    total = jnp.sum(gates, axis=-1, keepdims=True)
    some = total > 0
    probs = jnp.where(
        some, gates / jnp.where(some, total, 1.0), 1.0 / logits.shape[-1]
    )
    top, expert = select(gates, k)
    return token_choice(expert, top, probs, logits, context, valid=top > 0)
