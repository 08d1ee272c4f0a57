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
    `p[:, e]`, with p as the weight. Load is balanced by construction, and a
    token may have any number of experts. A token's experts depend on the
    tokens after it: in a causal model this looks ahead.
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
    probs = jax.nn.softmax(logits, axis=-1)
    score = jnp.where(context.mask[..., None], probs, -1.0)
    weight, token = lax.top_k(jnp.swapaxes(score, 1, 2), count)
    return ExpertChoice(
        weight=weight,
        valid=weight >= 0,
        probs=probs,
        logits=logits,
        mask=context.mask,
        token=token.astype(jnp.int32),
    )
