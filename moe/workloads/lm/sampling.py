"""How a token is drawn from logits.

B rows, V vocabulary.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Key

from moe.config import ConfigError


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a token is drawn from logits.

    Attributes:
      temperature: divides the logits; 0 takes the likeliest token.
      top: number of likeliest tokens to draw from; 0 draws from all.
      top_p: draws from the fewest likeliest tokens whose probabilities, after
        temperature and `top`, sum to at least it; 1 draws from all. Source:
        nucleus sampling, arXiv 1904.09751.
      stop: ids of tokens that end a continuation, and are its last.
    """

    temperature: float = 1.0
    top: int = 0
    top_p: float = 1.0
    stop: tuple[int, ...] = ()

    def __post_init__(self):
        if not 0 <= self.temperature < np.inf:
            raise ConfigError('temperature', self.temperature, 'at least 0')
        if self.top < 0:
            raise ConfigError('top', self.top, 'at least 0; 0 for all tokens')
        if not 0 < self.top_p <= 1:
            raise ConfigError('top_p', self.top_p, 'above 0, at most 1')

    @property
    def program(self) -> tuple[bool, int, bool]:
        """Returns what a program is compiled for, see `choose`."""
        return self.temperature == 0, self.top, self.top_p < 1

    @property
    def numbers(self) -> tuple[Any, Any, Any]:
        """Returns what a program is given: temperature, top_p, stop tokens."""
        stop = np.asarray(self.stop, np.int32).reshape(-1)
        return np.float32(self.temperature), np.float32(self.top_p), stop


def choose(
    logits: Float[Array, 'B V'],
    keys: Key[Array, 'B'],
    program: tuple[bool, int, bool],
    temperature: Float[Array, ''],
    top_p: Float[Array, ''],
) -> Int[Array, 'B']:
    """Draws a token of each row: the likeliest, of the best, or of all.

    Args:
      logits: float32.
      keys: PRNG key of each row.
      program: whether the likeliest is taken, `top`, and whether there is a
        `top_p`, see `Sampling`.
      temperature: above 0 unless the likeliest is taken.
      top_p: see `Sampling`.

    Returns:
      Ids, int32.
    """
    greedy, top, nucleus = program
    if greedy:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    if top:
        least = lax.top_k(logits, top)[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    logits = logits / temperature
    if nucleus:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        share = jax.nn.softmax(ordered)
        before = jnp.cumsum(share, axis=-1) - share
        kept = jnp.where(before < top_p, ordered, jnp.inf)
        least = jnp.min(kept, axis=-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    drawn = jax.vmap(jax.random.categorical)(keys, logits)
    return drawn.astype(jnp.int32)
