"""An exponential moving average of the parameters."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moe.config import Fraction


@dataclasses.dataclass(frozen=True)
class AverageConfig:
    """A moving average of the parameters.

    Attributes:
      decay: share of the average that an update leaves, at most; of update t it
        is min(decay, (1 + t) / (10 + t)), so that the first ones count little.
    """

    decay: Fraction = 0.999


def moved(
    config: AverageConfig, average: Any, params: Any, updates: Int[Array, '']
) -> Any:
    """Returns `d * average + (1 - d) * params` after an update.

    Source of the decay d of the first updates: TensorFlow's
    ExponentialMovingAverage with `num_updates`.

    Args:
      config: the section of the config.
      average: the average before the update.
      params: the parameters after it.
      updates: t, the number of updates made, this one included.
    """
    share = 1 - _decay(config, updates)
    return jax.tree.map(lambda a, p: a + share * (p - a), average, params)


def _decay(config: AverageConfig, updates: Any) -> Float[Array, '']:
    count = updates.astype(jnp.float32)
    return jnp.minimum(config.decay, (1 + count) / (10 + count))
