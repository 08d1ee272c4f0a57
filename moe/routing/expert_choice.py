"""Expert-choice routing: experts take tokens."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from moe.capacity import capacity
from moe.config import PositiveFloat
from moe.routing.base import ROUTERS
from moe.types import Context, ExpertChoice, traits


@ROUTERS.register('expert_choice')
@traits(looks_ahead='always')
def expert_choice(
    logits: Float[Array, 'G S E'],
    context: Context,
    *,
    capacity_factor: PositiveFloat = 2.0,
) -> ExpertChoice:
    """Each expert takes the C tokens of its group that score it highest.

    `p = softmax(logits)` over experts; expert e takes the C greatest of
    `p[:, e]`, with p as the weight. They are compared as `log(p / (1 - p))`,
    which tells apart what float32 rounds to 0 or 1. Load is balanced by
    construction, and a token may have any number of experts. A token's experts
    depend on the tokens after it: in a causal model this looks ahead.
    Source: arXiv 2202.09368.

    Args:
      logits: router logits, float32.
      context: only its mask is read.
      capacity_factor: mean experts a token; `C = ceil(S * factor / E)`, at
        most S.

    Returns:
      A Routing with the grid [E, C].
    """
    _, group_size, num_experts = logits.shape
    count = capacity(group_size, num_experts, 1, capacity_factor)
    logits = logits.astype(jnp.float32)
    probs = jax.nn.softmax(logits, axis=-1)
    mask, by_expert = context.mask[:, None], jnp.swapaxes(probs, 1, 2)
    score = jnp.swapaxes(_log_odds(lax.stop_gradient(logits)), 1, 2)
    _, token = lax.top_k(jnp.where(mask, score, -jnp.inf), count)
    return ExpertChoice(
        weight=jnp.take_along_axis(by_expert, token, axis=-1),
        valid=jnp.take_along_axis(mask, token, axis=-1),
        probs=probs,
        logits=logits,
        mask=context.mask,
        token=token.astype(jnp.int32),
    )


def _log_odds(logits: Float[Array, 'G S E']) -> Float[Array, 'G S E']:
    """Returns `logits[e]` minus the logsumexp of the others."""
    probs = jax.nn.softmax(logits, axis=-1)
    best = jnp.argmax(logits, axis=-1)[..., None] == jnp.arange(probs.shape[-1])
    # The greatest, which may be next to all, is left out of the sum; any other
    # is a half of it at most, and is subtracted.
    without = jax.nn.logsumexp(
        jnp.where(best, -jnp.inf, logits), axis=-1, keepdims=True
    )
    total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    others = total + jnp.log1p(-jnp.where(best, 0.0, probs))
    return logits - jnp.where(best, without, others)
