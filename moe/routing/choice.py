"""From dense gates to a token-choice Routing: what routers share."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from moe.types import Context, TokenChoice

# The logit of an expert that is removed from a token's choice. Not -inf:
# differences of two would be NaN.
REMOVED = -1e9


def select(
    scores: Float[Array, '... E'], k: int, *more: Float[Array, '... E']
) -> tuple[Float[Array, '... K'], Int[Array, '... K']]:
    """Returns the K greatest scores of each token, ties to the lowest index.

    Routers select by logits, or by what keeps their order: probabilities that
    underflow, or saturate at 1, are all equal.

    Args:
      scores: scores to choose by, float32.
      k: K, at most E.
      *more: scores that order those whose earlier scores are equal; none of
        the results has a gradient then.

    Returns:
      The chosen scores, greatest first, and their experts.

    Raises:
      ValueError: if k is greater than the number of experts.
    """
    num_experts = scores.shape[-1]
    if k > num_experts:
        raise ValueError(f'k = {k} of {num_experts} experts')
    if not more:
        values, expert = lax.top_k(scores, k)
        return values, expert
    keys = [-lax.stop_gradient(key) for key in (scores, *more)]
    index = lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1)
    values, *_, expert = lax.sort((*keys, index), num_keys=len(keys))
    return -values[..., :k], expert[..., :k]


def choose(
    context: Context,
    scores: Float[Array, 'G S E'],
    k: int,
    *more: Float[Array, 'G S E'],
) -> tuple[Float[Array, 'G S K'], Int[Array, 'G S K'], Any]:
    """Returns the experts of each token: `select`, or those to be replayed.

    A router whose choice is made here alone can be replayed: what follows from
    its logits and these experts is as if it had chosen them.

    Args:
      context: the router's context; `routes` is read.
      scores: see `select`.
      k: see `select`.
      *more: see `select`.

    Returns:
      Their scores, the experts, and which exist, [G, S, K] bool: None for all.
    """
    if context.routes is None:
        return *select(scores, k, *more), None
    expert = jnp.maximum(context.routes, 0)
    return take(scores, expert), expert, context.routes >= 0


def take(
    values: Float[Array, '... E'], expert: Int[Array, '... K']
) -> Float[Array, '... K']:
    """Returns the values of the chosen experts."""
    return jnp.take_along_axis(values, expert, axis=-1)


def normalized(gates: Float[Array, 'G S K']) -> Float[Array, 'G S K']:
    """Divides gates by their sum, unless there is only one.

    A single gate would become the constant 1, without gradient for the router.
    """
    if gates.shape[-1] == 1:
        return gates
    total = jnp.sum(gates, axis=-1, keepdims=True)
    return gates / jnp.maximum(total, jnp.finfo(gates.dtype).tiny)


def softmax_of(
    values: Float[Array, 'G S K'], valid: Bool[Array, 'G S K'] | None
) -> Float[Array, 'G S K']:
    """Returns the softmax over the choices that exist; the others have 0."""
    if valid is None:
        return jax.nn.softmax(values, axis=-1)
    some = jnp.any(valid, axis=-1, keepdims=True)  # of none it would be NaN
    gates = jax.nn.softmax(jnp.where(valid | ~some, values, -jnp.inf), axis=-1)
    return jnp.where(valid, gates, 0.0)


def token_choice(
    expert: Int[Array, 'G S K'],
    gates: Float[Array, 'G S K'],
    probs: Float[Array, 'G S E'],
    logits: Float[Array, 'G S E'],
    context: Context,
    *,
    valid: Bool[Array, 'G S K'] | None = None,
) -> TokenChoice:
    """Returns a Routing in which every token chose K experts.

    Args:
      expert: chosen experts, first choices first.
      gates: weights of the chosen experts, float32.
      probs: router probabilities for the losses, float32.
      logits: router logits for the z-loss, float32.
      context: the router's context; its mask is applied.
      valid: which choices exist; None for all.
    """
    exists = context.mask[..., None]
    exists = jnp.broadcast_to(exists, expert.shape)
    if valid is not None:
        exists = exists & valid
    grid = lambda x: jnp.moveaxis(x, -1, 1)
    return TokenChoice(
        expert=grid(expert).astype(jnp.int32),
        weight=grid(gates.astype(jnp.float32)),
        valid=grid(exists),
        probs=probs,
        logits=logits,
        mask=context.mask,
    )
