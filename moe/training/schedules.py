"""The registry of learning-rate schedules."""

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import optax

from moe.config import (
    ConfigError,
    Fraction,
    NaturalSteps,
    PositiveSteps,
    Registry,
)

# From the peak learning rate, the number of steps of the run and the schedule's
# options to the learning rate as a function of the step.
Schedule = Callable[..., optax.Schedule]

SCHEDULES = Registry('schedule')


@SCHEDULES.register('constant')
def constant(
    peak: Any, steps: int, *, warmup_steps: NaturalSteps = 50
) -> optax.Schedule:
    """Returns a linear warm-up to the peak, then a constant.

    Args:
      peak: highest learning rate, a number or a traced scalar.
      steps: number of steps of the whole run.
      warmup_steps: number of steps until the peak; 0 starts at the peak.
    """
    _decay_steps(steps, warmup_steps)
    return _warmed_up(peak, optax.constant_schedule(peak), warmup_steps)


@SCHEDULES.register('linear')
def linear(
    peak: Any,
    steps: int,
    *,
    warmup_steps: NaturalSteps = 50,
    final_fraction: Fraction = 0.1,
) -> optax.Schedule:
    """Returns a linear warm-up to the peak, then a linear decay.

    Args:
      peak: highest learning rate, a number or a traced scalar.
      steps: number of steps of the whole run.
      warmup_steps: number of steps until the peak; 0 starts at the peak.
      final_fraction: learning rate of the last step over the peak.
    """
    left = _decay_steps(steps, warmup_steps)
    decay = optax.linear_schedule(peak, peak * final_fraction, left)
    return _warmed_up(peak, decay, warmup_steps)


@SCHEDULES.register('cosine')
def cosine(
    peak: Any,
    steps: int,
    *,
    warmup_steps: NaturalSteps = 50,
    final_fraction: Fraction = 0.1,
) -> optax.Schedule:
    """Returns a linear warm-up to the peak, then a cosine decay.

    Source: SGDR without restarts, arXiv 1608.03983.

    Args:
      peak: highest learning rate, a number or a traced scalar.
      steps: number of steps of the whole run.
      warmup_steps: number of steps until the peak; 0 starts at the peak.
      final_fraction: learning rate of the last step over the peak.
    """
    left = _decay_steps(steps, warmup_steps)
    decay = optax.cosine_decay_schedule(peak, left, final_fraction)
    return _warmed_up(peak, decay, warmup_steps)


@SCHEDULES.register('inverse_sqrt')
def inverse_sqrt(
    peak: Any, steps: int, *, warmup_steps: NaturalSteps = 50
) -> optax.Schedule:
    """Returns a linear warm-up to the peak, then `peak * sqrt(w / t)`.

    It does not depend on the number of steps. Source: arXiv 1706.03762.

    Args:
      peak: highest learning rate, a number or a traced scalar.
      steps: number of steps of the whole run.
      warmup_steps: w, number of steps until the peak; 0 starts at the peak, and
        decays as 1 does.
    """
    _decay_steps(steps, warmup_steps)
    scale = max(warmup_steps, 1)

    def decay(after):
        # Asked of steps in the warm-up too.
        return peak * jnp.sqrt(scale / (scale + jnp.maximum(after, 0)))

    return _warmed_up(peak, decay, warmup_steps)


# From the share x of the decay that is over to the rate, from 1 to 0.
_SHAPES = {
    'linear': lambda x: 1 - x,
    '1-sqrt': lambda x: 1 - jnp.sqrt(x),
    'cosine': lambda x: (1 + jnp.cos(jnp.pi * x)) / 2,
}


@SCHEDULES.register('warmup_stable_decay')
def warmup_stable_decay(
    peak: Any,
    steps: int,
    *,
    warmup_steps: NaturalSteps = 50,
    decay_steps: PositiveSteps | None = None,
    shape: Literal['linear', '1-sqrt', 'cosine'] = '1-sqrt',
    final_fraction: Fraction = 0.0,
) -> optax.Schedule:
    """Returns a linear warm-up, a constant, and a decay in the last steps.

    Of the steps D of the decay the one after n of them has the rate
    `peak * (f + (1 - f) * s(n / D))`, with s(x) = 1 - x, 1 - sqrt(x), or
    (1 + cos(pi x)) / 2. Sources: arXiv 2404.06395; arXiv 2405.18392, which
    finds 1 - sqrt(x) over a fifth of the steps as good as a cosine.

    Args:
      peak: highest learning rate, a number or a traced scalar.
      steps: number of steps of the whole run.
      warmup_steps: number of steps until the peak; 0 starts at the peak.
      decay_steps: D; None for a fifth of all steps.
      shape: s, the shape of the decay.
      final_fraction: f, learning rate after the last step over the peak.
    """
    left = _decay_steps(steps, warmup_steps)
    length = max(steps // 5, 1) if decay_steps is None else decay_steps
    if length > left:
        allowed = f'at most steps - warmup_steps ({left})'
        raise ConfigError('decay_steps', decay_steps, allowed)

    def decay(after):
        over = jnp.clip((after - (left - length)) / length, 0.0, 1.0)
        # In this order it is 1 to the bit before the decay.
        return peak * (1 - (1 - final_fraction) * (1 - _SHAPES[shape](over)))

    return _warmed_up(peak, decay, warmup_steps)


def _decay_steps(steps: int, warmup_steps: int) -> int:
    """Returns the number of steps after the warm-up, at least one."""
    if warmup_steps >= steps:
        allowed = f'less than steps ({steps})'
        raise ConfigError('warmup_steps', warmup_steps, allowed)
    return steps - warmup_steps


def _warmed_up(peak, decay, warmup_steps):
    if not warmup_steps:
        return decay
    # Starts at peak / warmup_steps, not 0, so that the first step has effect.
    first = peak / warmup_steps
    warmup = optax.linear_schedule(first, peak, warmup_steps)
    return optax.join_schedules([warmup, decay], [warmup_steps])
