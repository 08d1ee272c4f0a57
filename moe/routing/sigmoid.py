"""Sigmoid scores with bias balancing, optionally limited to expert groups."""

from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe.config import OneOf, PositiveFloat, PositiveInt
from moe.routing.base import ROUTERS
from moe.routing.choice import (
    REMOVED,
    choose,
    select,
    softmax_of,
    take,
    token_choice,
)
from moe.routing.state import BALANCE_RULES, SignRule
from moe.types import Context, State, TokenChoice, traits

_SIGN = SignRule()


@ROUTERS.register('sigmoid')
@traits(state=lambda options: {'bias': options['balance']}, replays=True)
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
    the chosen ones' sum, if `renormalize`) times `scale` as weight. Where
    float32 gives several experts the same `s + bias`, as it does where s is
    next to 0 or 1, the greater logit comes first, then the lower index. No
    gradient moves the bias, the state 'bias': after each step the rule
    `balance` does, which balances without an auxiliary loss. `probs` is s over
    its sum over E, computed in log space: scores that are all small still sum
    to 1, so that a collapsed router cannot hide.
    Sources: arXiv 2408.15664; DeepSeek-V3, arXiv 2412.19437.

    Args:
      logits: router logits, float32.
      context: mask, state and routes are read; without the state there is
        no bias.
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
    logits = logits.astype(jnp.float32)
    biased = _biased(logits, context)
    return _choose(biased, logits, context, k, renormalize, scale)


@ROUTERS.register('group_limited')
@traits(state=lambda options: {'bias': options['balance']}, replays=True)
def group_limited(
    logits: Float[Array, 'G S E'],
    context: Context,
    *,
    k: PositiveInt = 4,
    expert_groups: PositiveInt = 4,
    chosen_groups: PositiveInt = 2,
    scored_experts: PositiveInt | None = 2,
    renormalize: bool = True,
    scale: PositiveFloat = 1.0,
    balance: Annotated[State, OneOf(BALANCE_RULES)] = _SIGN,
) -> TokenChoice:
    """Selects as `sigmoid` does, from the best groups of experts only.

    The experts stand in `expert_groups` consecutive groups of equal size. A
    group's score is the sum of its `scored_experts` greatest `s + bias`; the K
    experts come from the `chosen_groups` groups of greatest score, so that a
    token is sent to that many devices at most. Of groups whose scores are equal
    in float32 the one with the greater exact score comes first.
    Source: DeepSeek-V3, arXiv 2412.19437.

    Args:
      logits: router logits, float32.
      context: mask, state and routes are read; without the state there is
        no bias.
      k: K, experts a token.
      expert_groups: groups of experts, a divisor of E.
      chosen_groups: number of groups that a token's experts come from.
      scored_experts: experts of a group that its score is the sum of: 2 as in
        DeepSeek's own code; None is `k // chosen_groups`, as in the text of
        its report. No more than a group has.
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
    logits = logits.astype(jnp.float32)
    biased = _biased(logits, context)
    in_groups = lambda v: v.reshape(*v.shape[:-1], expert_groups, size)
    scored = min(scored_experts or max(k // chosen_groups, 1), size)
    score = _group_score(in_groups(biased), in_groups(logits), scored)
    _, best = select(score[0], chosen_groups, *score[1:])
    allowed = jnp.any(best[..., None] == jnp.arange(expert_groups), axis=-2)
    allowed = jnp.repeat(allowed, size, axis=-1)
    # -inf and not 0: a biased score may be negative.
    biased = jnp.where(allowed, biased, -jnp.inf)
    return _choose(biased, logits, context, k, renormalize, scale)


def _biased(
    logits: Float[Array, 'G S E'], context: Context
) -> Float[Array, 'G S E']:
    """Returns `s + bias`, far less for removed experts whatever their bias."""
    biased = jax.nn.sigmoid(logits) + context.state.get('bias', 0.0)
    return jnp.where(logits > REMOVED, biased, biased - 1e4)


def _group_score(
    biased: Float[Array, 'G S M E/M'],
    logits: Float[Array, 'G S M E/M'],
    count: int,
) -> tuple[Float[Array, 'G S M'], ...]:
    """Returns the score of each group, and what orders equal ones.

    Where float32 rounds the sum of the `count` best s to a whole number, what
    is left of it is `sigmoid(logit)` of the negative logits, less
    `sigmoid(-logit)` of the positive ones: the sign of this, and its logarithm
    times the sign. Last comes the sum of the logits.
    """
    values, best = select(biased, count, logits)
    logits = take(logits, best)
    log_rest, sign = jax.nn.logsumexp(
        jax.nn.log_sigmoid(-jnp.abs(logits)),
        axis=-1,
        b=-jnp.sign(logits),
        return_sign=True,
    )
    log_rest = jnp.maximum(log_rest, jnp.finfo(jnp.float32).min)
    total = jnp.sum(values, axis=-1)
    return total, sign, sign * log_rest, jnp.sum(logits, axis=-1)


def _choose(biased, logits, context, k, renormalize, scale):
    _, expert, valid = choose(context, biased, k, logits)
    log_scores = jax.nn.log_sigmoid(logits)
    probs = jax.nn.softmax(log_scores, axis=-1)
    if renormalize and k > 1:
        # Of the chosen alone: all may be next to nothing beside another.
        gates = softmax_of(take(log_scores, expert), valid)
    else:
        gates = jax.nn.sigmoid(take(logits, expert))
    routing = token_choice(
        expert, gates * scale, probs, logits, context, valid=valid
    )
    _, best = select(logits, k)
    hit = jnp.sum(jax.nn.one_hot(best, logits.shape[-1]), axis=-2)
    return routing.replace(
        unbiased_assignments=jnp.where(context.mask[..., None], hit, 0.0)
    )
