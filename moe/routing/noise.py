"""Noise by the token's global position, the same on every mesh."""

import functools
from collections.abc import Callable

import jax
from jaxtyping import Array, Float, Int, Key


def token_uniform(
    key: Key[Array, ''],
    position: Int[Array, 'G S'],
    width: int,
    low: float = 0.0,
    high: float = 1.0,
) -> Float[Array, 'G S {width}']:
    """Draws uniform noise for each token by its global position.

    Args:
      key: PRNG key of the layer and step.
      position: position of each token in the global batch, int32.
      width: how many numbers are drawn for a token.
      low: lower bound, included.
      high: upper bound, excluded.

    Returns:
      The noise, float32: the same for a token on any mesh.
    """
    draw = functools.partial(jax.random.uniform, minval=low, maxval=high)
    return _by_token(draw, key, position, width)


def token_normal(
    key: Key[Array, ''], position: Int[Array, 'G S'], width: int
) -> Float[Array, 'G S {width}']:
    """Draws standard normal noise for each token; see `token_uniform`."""
    return _by_token(jax.random.normal, key, position, width)


def _by_token(draw: Callable, key, position, width):
    one = lambda p: draw(jax.random.fold_in(key, p), (width,))
    return jax.vmap(jax.vmap(one))(position)
