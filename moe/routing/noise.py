"""Noise that belongs to a token, not to a device."""

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
    """Uniform noise for each token, a function of its global position.

    Args:
      key: PRNG key of the layer and step.
      position: position of each token in the global batch, int32.
      width: numbers drawn a token.
      low: least value.
      high: upper bound.

    Returns:
      The noise, float32: the same for a token on any mesh.
    """
    draw = functools.partial(jax.random.uniform, minval=low, maxval=high)
    return _by_token(draw, key, position, width)


def token_normal(
    key: Key[Array, ''], position: Int[Array, 'G S'], width: int
) -> Float[Array, 'G S {width}']:
    """Standard normal noise for each token; otherwise as `token_uniform`."""
    return _by_token(jax.random.normal, key, position, width)


def _by_token(draw: Callable, key, position, width):
    one = lambda p: draw(jax.random.fold_in(key, p), (width,))
    return jax.vmap(jax.vmap(one))(position)
