"""Noisy top-k gating with a learned noise scale."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from moe.config import NaturalFloat, PositiveInt
from moe.routing.base import ROUTERS
from moe.routing.choice import (
    choose,
    select,
    softmax_of,
    take,
    token_choice,
)
from moe.routing.noise import token_normal
from moe.types import Context, TokenChoice, traits


@ROUTERS.register('noisy_top_k')
@traits(reads=['noise_logits'], replays=True)
def noisy_top_k(
    logits: Float[Array, 'G S E'],
    context: Context,
    *,
    k: PositiveInt = 2,
    noise_epsilon: NaturalFloat = 1e-2,
    ties: Literal['lowest', 'keep'] = 'lowest',
) -> TokenChoice:
    """Top-k of noisy logits; the gates are their softmax.

    `H = logits + N(0, 1) * (softplus(noise_logits) + epsilon)` in training,
    `H = logits` in evaluation; the gates are the softmax over the K greatest
    of H. `selection_probability[e] = Phi((logits[e] - threshold[e]) / std[e])`,
    with the (K+1)-th greatest of H as threshold if e is chosen, else the K-th:
    the probability that e is among the chosen if only its noise were redrawn,
    in logit space. At K = 1 the gate is the softmax over all of H, so that the
    router is trained. Source: arXiv 1701.06538, eq. 3-5 and appendix A.

    Args:
      logits: router logits, float32.
      context: mask, position, key, train, noise_logits and routes are read.
      k: K, experts a token.
      noise_epsilon: least standard deviation of the noise.
      ties: which of equal logits are chosen, see `top_k`.

    Returns:
      A token-choice Routing; `selection_probability` is set in training
      if K < E.

    Raises:
      ValueError: if k is greater than the number of experts, or there is no
        key or are no noise logits in training.
    """
    logits = logits.astype(jnp.float32)
    num_experts = logits.shape[-1]
    noisy, std = logits, None
    if context.train:
        if context.key is None:
            raise ValueError("noisy_top_k: needs an rng named 'router'")
        if context.noise_logits is None:
            raise ValueError('noisy_top_k: needs context.noise_logits')
        std = jax.nn.softplus(context.noise_logits) + noise_epsilon
        draw = token_normal(context.key, context.position, num_experts)
        noisy = logits + draw * std
    top, expert, valid = choose(context, noisy, k)
    if ties == 'keep' and valid is None:
        least = top[..., -1:]
        top, expert = select(noisy, num_experts)
        valid = top >= least
    probs = jax.nn.softmax(noisy, axis=-1)
    gates = take(probs, expert) if k == 1 else softmax_of(top, valid)
    routing = token_choice(expert, gates, probs, logits, context, valid=valid)
    if std is None or k == num_experts:
        return routing
    edges = lax.top_k(noisy, k + 1)[0]
    inside = noisy > edges[..., k:]
    threshold = jnp.where(inside, edges[..., k:], edges[..., k - 1 : k])
    std = jnp.maximum(std, 1e-9)  # softplus is 0 far below
    probability = jax.scipy.stats.norm.cdf((logits - threshold) / std)
    return routing.replace(selection_probability=probability)
