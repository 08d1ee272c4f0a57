"""Dropout by seeds of tokens: the same for a token wherever it is computed.

Experts see rows in an order that depends on the dispatcher and the mesh, so a
token's seed travels with it, as columns beside its numbers.

B examples, S tokens a sequence, D width.
"""

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from moe.config import Within

# The share of the numbers that dropout removes.
Rate = Annotated[float, Within(0.0, 0.99)]

Seeds = UInt32[Array, '...']
_COLUMNS = 4  # bytes of a seed: integers that every dtype has


def make_seeds(key: Key[Array, ''], position: Int[Array, '...']) -> Seeds:
    """Draws a seed for each token by its global position.

    Args:
      key: PRNG key of the layer and step.
      position: position of each token in the global batch, int32.

    Returns:
      The seeds, uint32, in the shape of `position`.
    """
    one = lambda p: jax.random.bits(jax.random.fold_in(key, p))
    return jax.vmap(one)(position.reshape(-1)).reshape(position.shape)


def dropped(
    x: Float[Array, '... D'], rate: float, seeds: Seeds | None, site: int = 0
) -> Float[Array, '... D']:
    """Sets numbers to 0 with probability `rate`, and divides by `1 - rate`.

    Source: arXiv 1207.0580, with the factor in training.

    Args:
      x: rows, float.
      rate: the probability.
      seeds: seed of each row; None drops nothing.
      site: number of the place in the layer, each with draws of its own.

    Returns:
      The rows in the dtype of `x`.
    """
    if seeds is None or not rate:
        return x

    def draw(seed):
        key = jax.random.fold_in(jax.random.key(seed), site)
        return jax.random.bernoulli(key, 1 - rate, x.shape[-1:])

    keep = jax.vmap(draw)(seeds.reshape(-1)).reshape(x.shape)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def kept_branches(
    key: Key[Array, ''], rate: Float[Array, ''], batch: int
) -> Bool[Array, 'B']:
    """Draws which examples keep a residual branch, see stochastic depth.

    Args:
      key: PRNG key of the branch and step.
      rate: the probability that an example loses it.
      batch: B.
    """
    return jax.random.uniform(key, (batch,)) >= rate


def drops(module: Any) -> bool:
    """Whether a network has dropout of its own, by seeds of its rows.

    Args:
      module: a network or experts; `MLP` has a field `dropout`, and is called
        with `seeds` if that is not 0.
    """
    takes = 'seeds' in inspect.signature(type(module).__call__).parameters
    return takes and bool(getattr(module, 'dropout', 0.0))


def with_seeds(x: Float[Array, '... D'], seeds: Seeds) -> Float[Array, '... W']:
    """Returns tokens with their seeds as further columns.

    Args:
      x: tokens, float.
      seeds: the seed of each.
    """
    shifts = 8 * jnp.arange(_COLUMNS, dtype=jnp.uint32)
    digits = (seeds[..., None] >> shifts) & 0xFF
    return jnp.concatenate([x, digits.astype(x.dtype)], axis=-1)


def seeded(experts: Callable) -> Callable:
    """Returns experts of rows that have seeds as further columns.

    Args:
      experts: experts that are called with rows, sizes and seeds.
    """

    def run(rows, sizes=None):
        digits = jnp.clip(rows[..., -_COLUMNS:], 0, 255).astype(jnp.uint32)
        shifts = 8 * jnp.arange(_COLUMNS, dtype=jnp.uint32)
        seeds = jnp.sum(digits << shifts, axis=-1, dtype=jnp.uint32)
        return experts(rows[..., :-_COLUMNS], sizes, seeds)

    return run
