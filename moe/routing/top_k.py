"""Top-k softmax routing."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe.config import NaturalFloat, PositiveInt
from moe.routing.base import ROUTERS
from moe.routing.choice import choose, normalized, select, take, token_choice
from moe.routing.noise import token_normal
from moe.types import Context, TokenChoice, traits


@ROUTERS.register('top_k')
@traits(replays=True)
def top_k(
    logits: Float[Array, 'G S E'],
    context: Context,
    *,
    k: PositiveInt = 2,
    renormalize: bool = True,
    noise: NaturalFloat = 0.0,
    ties: Literal['lowest', 'keep'] = 'lowest',
) -> TokenChoice:
    """Sends each token to the K experts of greatest probability.

    `p = softmax(logits)`; the gates are p of the chosen experts, divided by
    their sum if `renormalize`. Renormalised gates are the softmax over the
    chosen logits alone, so selecting before the softmax (Mixtral) is
    `renormalize=True`, and selecting after it (OLMoE) is `False`. A single
    gate is never renormalised: the constant 1 would leave the router without
    gradient. Of tied experts the lowest index is chosen, or all are.

    With noise `H = logits + N(0, 1) * noise / E` in training: experts are
    chosen by H, whose softmax the gates are of, and `selection_probability[e]
    = Phi((logits[e] - threshold) E / noise)`, with the K-th greatest of H as
    threshold, is the probability that e is among the chosen if its noise were
    redrawn, for the load loss.
    Sources: Mixtral, arXiv 2401.04088; OLMoE, arXiv 2409.02060; at K = 1
    Switch, arXiv 2101.03961; with noise V-MoE, arXiv 2106.05974, appendix A.

    Args:
      logits: router logits, float32.
      context: mask and routes are read; with noise position, key and train.
      k: K, experts a token, at most E.
      renormalize: whether a token's gates sum to 1 (K > 1).
      noise: standard deviation of the noise of the logits in training, times
        the number of experts; V-MoE's is 1.
      ties: 'keep' also chooses every expert that ties with the K-th, up to E
        in all: for parity with code that compares with a threshold.

    Returns:
      A token-choice Routing, first choices first; with noise
      `selection_probability` is set in training.

    Raises:
      ValueError: if k is greater than the number of experts, or there is noise
        in training without a key.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[[0.1, 0.6, 0.3]]]))
    >>> context = Context(jnp.ones((1, 1), bool), jnp.zeros((1, 1), jnp.int32))
    >>> routing = top_k(logits, context, k=2)
    >>> routing.expert.ravel().tolist()
    [1, 2]
    >>> [round(float(w), 4) for w in routing.weight.ravel()]
    [0.6667, 0.3333]
    """
    logits = logits.astype(jnp.float32)
    num_experts, noisy = logits.shape[-1], logits
    std = noise / num_experts if noise and context.train else 0.0
    if std:
        if context.key is None:
            raise ValueError("top_k: noise needs an rng named 'router'")
        draw = token_normal(context.key, context.position, num_experts)
        noisy = logits + std * draw
    probs = jax.nn.softmax(logits, axis=-1)
    chosen, expert, valid = choose(context, noisy, k)
    if ties == 'keep' and valid is None:
        least = chosen[..., -1:]
        chosen, expert = select(noisy, num_experts)
        valid = chosen >= least
    gates = take(jax.nn.softmax(noisy, axis=-1) if std else probs, expert)
    if valid is not None:
        gates = jnp.where(valid, gates, 0.0)
    if renormalize and k > 1:
        gates = normalized(gates)
    routing = token_choice(expert, gates, probs, logits, context, valid=valid)
    if not std:
        return routing
    threshold = select(noisy, k)[0][..., -1:]
    probability = jax.scipy.stats.norm.cdf((logits - threshold) / std)
    return routing.replace(selection_probability=probability)
