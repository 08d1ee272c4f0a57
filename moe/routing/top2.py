"""Top-2 gating with a policy for the second expert."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from moe.config import NaturalFloat
from moe.routing.base import ROUTERS
from moe.routing.choice import select, take, token_choice
from moe.routing.noise import token_uniform
from moe.types import Context, TokenChoice, traits

Policy = Literal['all', 'none', 'threshold', 'random']
_EPSILON = 1e-9


@ROUTERS.register('top2')
@traits(replays=True)
def top2(
    logits: Float[Array, 'G S E'],
    context: Context,
    *,
    policy: Policy = 'random',
    eval_policy: Policy = 'all',
    threshold: NaturalFloat = 0.2,
    eval_threshold: NaturalFloat = 0.2,
) -> TokenChoice:
    """Sends each token to its best expert, and by policy to its second.

    `g_i = p_i / (p_1 + p_2 + 1e-9)` for the two greatest probabilities, before
    anything is dropped and not renormalised after. The second choice exists
    by policy: 'all', 'none', 'threshold' (`g2 > t`), or 'random' (with
    probability `min(1, g2 / t)`). The balance loss counts first choices.
    'random' in evaluation needs a key too. Replayed, a token without a second
    expert has the weight of its first beside the best other one.

    Inside a group of experts (`context.importance`) a token of importance 1
    has both choices; one of 0.5 has no first choice: that gate is 0, counts in
    no density, and its best expert is its *second* choice; one of 0 has none.
    Probabilities are 0 where the importance is not 1.
    Source: GShard, arXiv 2006.16668.

    Args:
      logits: router logits, float32.
      context: mask, position, key, train, importance and routes are read.
      policy: when the second choice exists, in training.
      eval_policy: when the second choice exists, in evaluation.
      threshold: t, in training.
      eval_threshold: t, in evaluation.

    Returns:
      A token-choice Routing with K = 2.

    Raises:
      ValueError: if there is one expert only, or 'random' has no key.
    """
    if not context.train:
        policy, threshold = eval_policy, eval_threshold
    num_experts = logits.shape[-1]
    if num_experts < 2:
        raise ValueError(f'top2: needs 2 experts, not {num_experts}')
    logits = logits.astype(jnp.float32)
    probs = jax.nn.softmax(logits, axis=-1)
    importance = context.importance
    if importance is None:
        importance = jnp.ones(logits.shape[:-1], jnp.float32)
    whole = importance == 1.0
    _, best = select(logits, 2)
    first = best[..., 0]
    second = jnp.where(whole, best[..., 1], first)
    expert = jnp.stack([first, second], -1)
    routes = context.routes
    if routes is not None:
        is_first = best[..., 0] == routes[..., 0]
        other = jnp.where(is_first, best[..., 1], best[..., 0])
        second = jnp.where(routes[..., 1] < 0, other, routes[..., 1])
        first = jnp.maximum(routes[..., 0], 0)
        expert = jnp.stack([first, second], -1)
    gate_1, gate_2 = jnp.moveaxis(take(probs, expert), -1, 0)
    gate_1 = gate_1 * whole
    total = gate_1 + gate_2 + _EPSILON
    gate_1, gate_2 = gate_1 / total, gate_2 / total
    if routes is None:
        keep = _keep_second(gate_2, context, policy, threshold)
        valid = jnp.stack([whole, keep & (importance > 0)], -1)
    else:
        valid = routes >= 0
    routing = token_choice(
        expert,
        jnp.stack([gate_1, gate_2], -1),
        probs * whole[..., None],
        logits,
        context,
        valid=valid,
    )
    only_first = jnp.array([True, False])[:, None]
    return routing.replace(balance_mask=routing.valid & only_first)


def _keep_second(
    gate: Float[Array, 'G S'],
    context: Context,
    policy: Policy,
    threshold: float,
) -> Bool[Array, 'G S']:
    if policy == 'all':
        return jnp.ones(gate.shape, bool)
    if policy == 'none':
        return jnp.zeros(gate.shape, bool)
    if policy == 'threshold':
        return gate > threshold
    if context.key is None:
        raise ValueError("top2: policy 'random' needs an rng named 'router'")
    draw = token_uniform(context.key, context.position, 1)[..., 0]
    return draw < gate / max(threshold, _EPSILON)
