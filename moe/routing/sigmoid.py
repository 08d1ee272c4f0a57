"""Sigmoid scores with bias balancing, optionally limited to expert groups."""

from typing import Annotated

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from moe.config import OneOf, PositiveFloat, PositiveInt
from moe.routing.base import ROUTERS
from moe.routing.choice import normalized, select, token_choice
from moe.routing.state import BALANCE_RULES, SignRule
from moe.types import Context, State, TokenChoice, traits

_SIGN = SignRule()


@ROUTERS.register('sigmoid')
@traits(state=lambda options: {'bias': options['balance']})
def sigmoid(
    logits: Float[Array, 'G S E'],
    context: Context,
    *,
    k: PositiveInt = 2,
    renormalize: bool = True,
    scale: PositiveFloat = 1.0,
    balance: Annotated[State, OneOf(BALANCE_RULES)] = _SIGN,
) -> TokenChoice:
    """Selects by score plus bias, weights by the score alone.

    `s = sigmoid(logits)`; the K greatest of `s + bias` are chosen, with s (over
    the chosen ones' sum, if `renormalize`) times `scale` as weight. No
    gradient moves the bias, the state 'bias': after each step the rule
    `balance` does, which balances without an auxiliary loss. `probs` is s over
    its sum over E, computed in log space: scores that are all small still sum
    to 1, so that a collapsed router cannot hide.
    Sources: arXiv 2408.15664; DeepSeek-V3, arXiv 2412.19437.

    Args:
      logits: router logits, float32.
      context: mask and state are read.
      k: K, experts a token.
      renormalize: whether a token's gates sum to `scale` (K > 1).
      scale: factor of the gates.
      balance: the rule that moves the bias, by default `SignRule`.

    Returns:
      A token-choice Routing.

    Raises:
      ValueError: if k is greater than the number of experts.
    """
    del balance  # declared as a state, whose value is the bias
    return _choose(logits, context, k, renormalize, scale)


@ROUTERS.register('group_limited')
@traits(state=lambda options: {'bias': options['balance']})
def group_limited(
    logits: Float[Array, 'G S E'],
    context: Context,
    *,
    k: PositiveInt = 4,
    expert_groups: PositiveInt = 4,
    chosen_groups: PositiveInt = 2,
    renormalize: bool = True,
    scale: PositiveFloat = 1.0,
    balance: Annotated[State, OneOf(BALANCE_RULES)] = _SIGN,
) -> TokenChoice:
    """Selects as `sigmoid` does, from the best groups of experts only.

    The experts stand in `expert_groups` consecutive groups of equal size. A
    group's score is the sum of its two greatest `s + bias`; the K experts come
    from the `chosen_groups` groups of greatest score, so that a token is sent
    to that many devices at most. Source: DeepSeek-V3, arXiv 2412.19437.

    Args:
      logits: router logits, float32.
      context: mask and state are read.
      k: K, experts a token.
      expert_groups: groups of experts, a divisor of E.
      chosen_groups: number of groups that a token's experts come from.
      renormalize: whether a token's gates sum to `scale` (K > 1).
      scale: factor of the gates.
      balance: the rule that moves the bias, by default `SignRule`.

    Returns:
      A token-choice Routing.

    Raises:
      ValueError: if the groups do not divide E, or hold fewer than K experts.
    """
    del balance  # declared as a state, whose value is the bias
    num_experts = logits.shape[-1]
    size, rest = divmod(num_experts, expert_groups)
    if rest or chosen_groups > expert_groups or chosen_groups * size < k:
        raise ValueError(
            f'group_limited: {chosen_groups} of {expert_groups} groups of '
            f'{num_experts} experts cannot give k = {k}'
        )
    biased = jax.nn.sigmoid(logits) + context.state['bias']
    grouped = biased.reshape(*logits.shape[:-1], expert_groups, size)
    score = jnp.sum(lax.top_k(grouped, min(2, size))[0], axis=-1)
    _, best = lax.top_k(score, chosen_groups)
    allowed = jnp.any(best[..., None] == jnp.arange(expert_groups), axis=-2)
    allowed = jnp.repeat(allowed, size, axis=-1)
    return _choose(logits, context, k, renormalize, scale, allowed)


def _choose(logits, context, k, renormalize, scale, allowed=None):
    scores = jax.nn.sigmoid(logits)
    biased = lax.stop_gradient(scores + context.state['bias'])
    if allowed is not None:
        # -inf and not 0: a biased score may be negative.
        biased = jnp.where(allowed, biased, -jnp.inf)
    _, expert = select(biased, k)
    probs = jax.nn.softmax(jax.nn.log_sigmoid(logits), axis=-1)
    gates = jnp.take_along_axis(
        probs if renormalize and k > 1 else scores, expert, axis=-1
    )
    if renormalize:
        gates = normalized(gates)
    return token_choice(expert, gates * scale, probs, logits, context)
