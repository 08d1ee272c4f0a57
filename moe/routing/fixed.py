"""Routers that learn nothing: hash, random, and forced balance."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from moe.config import NaturalInt, PositiveInt
from moe.routing.base import ROUTERS
from moe.routing.choice import token_choice
from moe.routing.noise import token_uniform
from moe.types import Context, TokenChoice, traits


@ROUTERS.register('hash')
@traits(reads=['token_id'], replays=True)
def hash_router(
    logits: Float[Array, 'G S E'],
    context: Context,
    *,
    k: PositiveInt = 1,
    vocab_size: PositiveInt = 256,
    seed: NaturalInt = 0,
) -> TokenChoice:
    """Sends a token to the experts that a fixed table gives for its id.

    The table is random and gives every expert as many ids, up to one; the
    other K - 1 experts of an id follow the first. Each weight is 1 / K.
    Source: Hash layers, arXiv 2106.04426.

    Args:
      logits: only their shape is read.
      context: mask, token_id and routes are read.
      k: K, experts a token.
      vocab_size: number of ids.
      seed: seed of the table.

    Returns:
      A token-choice Routing without gradient.

    Raises:
      ValueError: if there are no token ids.
    """
    if context.token_id is None:
        raise ValueError('hash: the layer was called without token_ids')
    num_experts = logits.shape[-1]
    order = np.random.default_rng(seed).permutation(vocab_size)
    table = jnp.asarray(order % num_experts, jnp.int32)
    return _constant(table[context.token_id], logits, context, k)


@ROUTERS.register('random')
@traits(replays=True)
def random(
    logits: Float[Array, 'G S E'], context: Context, *, k: PositiveInt = 2
) -> TokenChoice:
    """Sends each token to K experts drawn at random: a baseline.

    They are drawn anew in every training step, and by position in evaluation.

    Args:
      logits: only their shape is read.
      context: mask, position, key and routes are read.
      k: K, experts a token.

    Returns:
      A token-choice Routing without gradient, each weight 1 / K.
    """
    num_experts = logits.shape[-1]
    key = context.key if context.train else None
    key = jax.random.key(0) if key is None else key
    draw = token_uniform(key, context.position, 1)[..., 0]
    first = (draw * num_experts).astype(jnp.int32)
    return _constant(first, logits, context, k)


@ROUTERS.register('round_robin')
@traits(replays=True)
def round_robin(
    logits: Float[Array, 'G S E'], context: Context, *, k: PositiveInt = 2
) -> TokenChoice:
    """Sends token i to the K experts from i K on: a balanced baseline.

    Args:
      logits: only their shape is read.
      context: mask, position and routes are read.
      k: K, experts a token.

    Returns:
      A token-choice Routing without gradient, each weight 1 / K.
    """
    return _constant(context.position * k, logits, context, k)


def _constant(
    first: Int[Array, 'G S'],
    logits: Float[Array, 'G S E'],
    context: Context,
    k: int,
) -> TokenChoice:
    """Chooses K consecutive experts from `first` on, with equal weights.

    `probs` is the choice itself: a uniform one would report a collapsed table
    as balanced.
    """
    num_experts = logits.shape[-1]
    if k > num_experts:
        raise ValueError(f'k = {k} of {num_experts} experts')
    expert, valid = (first[..., None] + jnp.arange(k)) % num_experts, None
    if context.routes is not None:
        expert, valid = context.routes, context.routes >= 0
    gates = jnp.full(expert.shape, 1.0 / k, jnp.float32)
    hit = jax.nn.one_hot(expert, num_experts, dtype=jnp.float32)
    probs = jnp.mean(hit, axis=-2)
    zeros = jnp.zeros(logits.shape, jnp.float32)
    expert = jnp.maximum(expert, 0)
    return token_choice(expert, gates, probs, zeros, context, valid=valid)
