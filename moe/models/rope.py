"""Rotary positions, and what stretches them over longer sequences.

B batch, S positions, H heads, h head width, r the part of it that turns.
"""

import dataclasses
import functools
import math
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moe.config import ConfigError, OneOf, PositiveFloat, PositiveInt, Registry
from moe.config.constraints import AtLeast

ROPE_SCALINGS = Registry('scaling of rotary positions')


class Angles(NamedTuple):
    """By how much each pair of a head turns.

    Attributes:
      frequency: radians a position, [r/2] float32.
      factor: multiplies both cosine and sine.
    """

    frequency: Float[Array, ' pairs']
    factor: float = 1.0


def _unscaled(theta: float, width: int) -> Float[Array, ' pairs']:
    half = width // 2
    return theta ** (-jnp.arange(half, dtype=jnp.float32) / half)


@ROPE_SCALINGS.register('none')
def none(theta: float, width: int) -> Angles:
    """The frequencies `theta^(-2i/r)`. Source: arXiv 2104.09864.

    Args:
      theta: base of the wavelengths.
      width: r, the part of the head that turns.
    """
    return Angles(_unscaled(theta, width))


@ROPE_SCALINGS.register('linear')
def linear(
    theta: float, width: int, *, factor: Annotated[float, AtLeast(1.0)] = 1.0
) -> Angles:
    """Positions are divided by a factor. Source: arXiv 2306.15595.

    Args:
      theta: base of the wavelengths.
      width: r, the part of the head that turns.
      factor: how many times longer sequences become.
    """
    return Angles(_unscaled(theta, width) / factor)


@ROPE_SCALINGS.register('ntk')
def ntk(
    theta: float, width: int, *, factor: Annotated[float, AtLeast(1.0)] = 1.0
) -> Angles:
    """The base grows to `theta * factor^(r / (r - 2))`.

    The longest wavelength grows by the factor, the shortest stays. The factor
    does not depend on the sequence's length. Source: arXiv 2309.00071,
    section 3.1.

    Args:
      theta: base of the wavelengths.
      width: r, the part of the head that turns; 4 or more.
      factor: how many times longer sequences become.

    Raises:
      ConfigError: if a single pair turns, which has no longest wavelength.
    """
    if width < 4:
        allowed = 'an option of heads of which 4 or more turn'
        raise ConfigError('rope.scaling.name', 'ntk', allowed)
    return Angles(_unscaled(theta * factor ** (width / (width - 2)), width))


@ROPE_SCALINGS.register('yarn')
def yarn(
    theta: float,
    width: int,
    *,
    factor: Annotated[float, AtLeast(1.0)] = 1.0,
    original_length: PositiveInt = 4096,
    beta_fast: PositiveFloat = 32.0,
    beta_slow: PositiveFloat = 1.0,
    mscale: PositiveFloat | None = None,
    mscale_all_dim: PositiveFloat | None = None,
    attention_factor: PositiveFloat | None = None,
    truncate: bool = True,
) -> Angles:
    """Long wavelengths are interpolated, short ones are not.

    The pair i turns by `f / factor * a + f * (1 - a)` radians a position, f
    without scaling and a rising from 0 to 1 between the pairs that turn
    `beta_fast` and `beta_slow` times within the original length. Cosine and
    sine are multiplied by `m(mscale) / m(mscale_all_dim)` with
    `m(s) = 0.1 s log(factor) + 1`, or by `m(1)` without the two. The factor of
    DeepSeek on the softmax, `m(mscale_all_dim)^2`, is part of
    `attention_scale`. Sources: arXiv 2309.00071; transformers,
    `modeling_rope_utils.py`.

    Args:
      theta: base of the wavelengths.
      width: r, the part of the head that turns.
      factor: how many times longer sequences become.
      original_length: length before that, positions.
      beta_fast: turns from which on a pair is as without scaling.
      beta_slow: turns up to which a pair is interpolated.
      mscale: see above.
      mscale_all_dim: see above.
      attention_factor: replaces the factor on cosine and sine.
      truncate: whether the ends of the rise are rounded to whole pairs.

    Raises:
      ConfigError: for a base of 1 or less, by which pairs turn alike.
    """
    if theta <= 1:
        raise ConfigError('rope.theta', theta, 'greater than 1.0 for yarn')

    def pair(turns):
        """The pair, as a fraction, that turns so often in the old length."""
        wavelength = original_length / (turns * 2 * math.pi)
        return width * math.log(wavelength) / (2 * math.log(theta))

    low, high = pair(beta_fast), pair(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    if low == high:
        high += 0.001
    order = jnp.arange(width // 2, dtype=jnp.float32)
    part = jnp.clip((order - low) / (high - low), 0, 1)
    plain = _unscaled(theta, width)
    frequency = plain / factor * part + plain * (1 - part)
    m = lambda s: 0.1 * s * math.log(factor) + 1.0
    if attention_factor is None:
        attention_factor = m(1.0)
        if mscale and mscale_all_dim:
            attention_factor = m(mscale) / m(mscale_all_dim)
    return Angles(frequency, attention_factor)


@ROPE_SCALINGS.register('llama3')
def llama3(
    theta: float,
    width: int,
    *,
    factor: Annotated[float, AtLeast(1.0)] = 8.0,
    low_freq_factor: PositiveFloat = 1.0,
    high_freq_factor: PositiveFloat = 4.0,
    original_length: PositiveInt = 8192,
) -> Angles:
    """Long wavelengths are divided by a factor, as in Llama 3.1.

    A pair that turns n times within the original length turns by
    `f (s + (1 - s) / factor)` radians a position, f without scaling and
    `s = (n - low) / (high - low)`, but from 0 to 1. Sources: arXiv 2407.21783;
    transformers, `modeling_rope_utils.py`.

    Args:
      theta: base of the wavelengths.
      width: r, the part of the head that turns.
      factor: how many times longer sequences become.
      low_freq_factor: turns up to which the factor acts wholly.
      high_freq_factor: turns from which on it does not act.
      original_length: length before that, positions.

    Raises:
      ConfigError: if it would act wholly where it does not act.
    """
    if low_freq_factor >= high_freq_factor:
        raise ConfigError(
            'rope.scaling.low_freq_factor',
            low_freq_factor,
            f'less than high_freq_factor ({high_freq_factor})',
        )
    plain = _unscaled(theta, width)
    turns = original_length * plain / (2 * math.pi)
    share = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor)
    share = jnp.clip(share, 0, 1)
    return Angles(plain * (share + (1 - share) / factor))


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary positions of queries and keys.

    Attributes:
      theta: base of the wavelengths.
      share: the part of each head that turns, its first `share * h` numbers.
      interleaved: whether pairs are neighbours, `(x[2i], x[2i + 1])`, as in
        DeepSeek; else `(x[i], x[i + r/2])`.
      scaling: what stretches positions over longer sequences.
    """

    theta: PositiveFloat = 10_000.0
    share: PositiveFloat = 1.0
    interleaved: bool = False
    scaling: Annotated[Any, OneOf(ROPE_SCALINGS)] = none

    def __post_init__(self):
        if self.share > 1:
            raise ConfigError('share', self.share, 'at most 1.0')

    def width(self, head: int) -> int:
        """Returns r, how many numbers of a head turn.

        Args:
          head: h, width of the head.

        Raises:
          ConfigError: if they are no pairs.
        """
        turning = int(head * self.share)
        if turning % 2 or not turning:
            allowed = f'a part of the {head} numbers of a head that is even'
            raise ConfigError('rope.share', self.share, allowed)
        return turning

    def check(self, head: int) -> None:
        """Refuses what does not fit heads of a width.

        Args:
          head: h, width of the head.

        Raises:
          ConfigError: if no pairs turn, or if their scaling is impossible.
        """
        scaling = functools.partial(self.scaling, self.theta, self.width(head))
        jax.eval_shape(scaling)


def rotate(
    x: Float[Array, 'B S H h'], position: Int[Array, '*B S'], rope: Rope
) -> Float[Array, 'B S H h']:
    """Rotates queries or keys by their positions (rotary embedding).

    The pair `(x[i], x[i + r/2])` turns by `position * frequency[i]`, what is
    beyond the r numbers that turn stays. Source: RoFormer, arXiv 2104.09864.

    Args:
      x: queries or keys, float.
      position: absolute positions, int32, [S] or [B, S].
      rope: the wavelengths, and which numbers are a pair.

    Returns:
      The rotated x, in its dtype.
    """
    width = rope.width(x.shape[-1])
    frequency, factor = rope.scaling(rope.theta, width)
    angle = position[..., None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    if factor != 1.0:
        cos, sin = cos * factor, sin * factor
    rest = x[..., width:]
    wide = x[..., :width] if width < x.shape[-1] else x
    wide = wide.astype(jnp.float32)
    if rope.interleaved:
        a, b = wide[..., ::2], wide[..., 1::2]
        turned = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1)
        turned = turned.reshape(wide.shape)
    else:
        a, b = jnp.split(wide, 2, axis=-1)
        turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
    turned = turned.astype(x.dtype)
    if rest.shape[-1]:
        return jnp.concatenate([turned, rest], axis=-1)
    return turned
