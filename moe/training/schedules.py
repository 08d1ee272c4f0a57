"""The registry of learning-rate schedules."""

from collections.abc import Callable
from typing import Any

import optax

from moe.config import ConfigError, Fraction, NaturalInt, Registry

# From the peak learning rate, the number of steps of the run and the schedule's
# options to the learning rate as a function of the step.
Schedule = Callable[..., optax.Schedule]

SCHEDULES = Registry('schedule')


@SCHEDULES.register('constant')
def constant(
    peak: Any, steps: int, *, warmup_steps: NaturalInt = 50
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
    warmup_steps: NaturalInt = 50,
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
    warmup_steps: NaturalInt = 50,
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
