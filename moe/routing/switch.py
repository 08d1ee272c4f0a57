"""Switch routing: one expert a token."""

from jaxtyping import Array, Float

from moe.routing.base import ROUTERS
from moe.routing.top_k import top_k
from moe.types import Context, TokenChoice, traits


@ROUTERS.register('switch')
@traits(replays=True)
def switch(logits: Float[Array, 'G S E'], context: Context) -> TokenChoice:
    """Sends each token to its likeliest expert, weighted by the probability.

    `p = softmax(logits)`, `e = argmax p`, weight `p[e]`: `top_k` with K = 1.
    The source adds the layer's `jitter` of 0.01 and a capacity factor.
    Source: Switch Transformers, arXiv 2101.03961.

    Args:
      logits: router logits, float32.
      context: mask and routes are read.

    Returns:
      A token-choice Routing with K = 1.
    """
    return top_k(logits, context, k=1)
