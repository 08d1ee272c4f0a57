"""Top-k softmax routing."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe.config import PositiveInt
from moe.routing.base import ROUTERS
from moe.routing.choice import choose, normalized, select, take, token_choice
from moe.types import Context, TokenChoice, traits


@ROUTERS.register('top_k')
@traits(replays=True)
def top_k(
    logits: Float[Array, 'G S E'],
    context: Context,
    *,
    k: PositiveInt = 2,
    renormalize: bool = True,
    ties: Literal['lowest', 'keep'] = 'lowest',
) -> TokenChoice:
    """Sends each token to the K experts of greatest probability.

    `p = softmax(logits)`; the gates are p of the chosen experts, divided by
    their sum if `renormalize`. Renormalised gates are the softmax over the
    chosen logits alone, so selecting before the softmax (Mixtral) is
    `renormalize=True`, and selecting after it (OLMoE) is `False`. A single
    gate is never renormalised: the constant 1 would leave the router without
    gradient. Of tied experts the lowest index is chosen, or all are.
    Sources: Mixtral, arXiv 2401.04088; OLMoE, arXiv 2409.02060; at K = 1
    Switch, arXiv 2101.03961.

    Args:
      logits: router logits, float32.
      context: mask and routes are read.
      k: K, experts a token, at most E.
      renormalize: whether a token's gates sum to 1 (K > 1).
      ties: 'keep' also chooses every expert that ties with the K-th, up to E
        in all: for parity with code that compares with a threshold.

    Returns:
      A token-choice Routing, first choices first.

    Raises:
      ValueError: if k is greater than the number of experts.

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
    probs = jax.nn.softmax(logits, axis=-1)
    chosen, expert, valid = choose(context, logits, k)
    if ties == 'keep' and valid is None:
        least = chosen[..., -1:]
        chosen, expert = select(logits, logits.shape[-1])
        valid = chosen >= least
    gates = take(probs, expert)
    if valid is not None:
        gates = jnp.where(valid, gates, 0.0)
    if renormalize and k > 1:
        gates = normalized(gates)
    return token_choice(expert, gates, probs, logits, context, valid=valid)
