"""Updates that are left out, and what is done when there are many.

A step whose loss or gradient is not finite, or whose gradient is far larger
than those before, leaves parameters, moments and states as they were. It is
decided on the device: nothing waits for it.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from moe.config import NaturalInt, PositiveInt

WINDOW = 64  # norms whose median is taken
LEAST = 8  # norms before one can be too large


class Diverged(RuntimeError):
    """Too many updates in a row were left out."""


@dataclasses.dataclass(frozen=True)
class DivergenceConfig:
    """What is done when updates are left out one after another.

    Attributes:
      max_skipped: number of updates in a row at which the run does so.
      then: whether it stops, or goes back to the newest checkpoint after which
        the loss was finite, and on from there with the data that follow.
      max_returns: how often it goes back before it stops.
    """

    max_skipped: PositiveInt = 3
    then: Literal['stop', 'go_back'] = 'stop'
    max_returns: NaturalInt = 3


class Guard(NamedTuple):
    """What decides whether an update is made, part of the train state.

    Attributes:
      norms: float32 [64], newest finite norms of the gradient, in a ring.
      seen: int32, number of finite norms so far.
      updates: int32, number of updates made, the optimizer's count.
      skipped: int32, number of updates left out.
      in_a_row: int32, how many of them are the newest.
    """

    norms: Float[Array, '64']
    seen: Int[Array, '']
    updates: Int[Array, '']
    skipped: Int[Array, '']
    in_a_row: Int[Array, '']


def init_guard() -> Guard:
    """Returns the guard before the first step."""
    zero = lambda: jnp.zeros((), jnp.int32)
    return Guard(jnp.zeros(WINDOW), zero(), zero(), zero(), zero())


def judge(
    guard: Guard,
    objective: Float[Array, ''],
    norm: Float[Array, ''],
    *,
    skip_above: float | None,
    max_skipped: int,
) -> tuple[Bool[Array, ''], Guard]:
    """Decides whether an update is made.

    It is if objective and norm are finite, and the norm is at most
    `skip_above` times the median of the newest 64 finite norms before it, once
    there are 8. After `max_skipped` in a row no further one is.

    Args:
      guard: the guard before the step.
      objective: the objective.
      norm: global norm of the gradient.
      skip_above: how many times the median it may be; None for any.
      max_skipped: see `DivergenceConfig`.

    Returns:
      Whether the update is made, and the next guard.
    """
    finite = jnp.isfinite(objective) & jnp.isfinite(norm)
    made = finite & (guard.in_a_row < max_skipped)
    if skip_above is not None:
        made &= (guard.seen < LEAST) | (norm <= skip_above * median(guard))
    count = lambda number, which: number + which.astype(jnp.int32)
    place = guard.seen % WINDOW
    kept = jnp.where(finite, norm, guard.norms[place])
    return made, Guard(
        guard.norms.at[place].set(kept),
        count(guard.seen, finite),
        count(guard.updates, made),
        count(guard.skipped, ~made),
        jnp.where(made, 0, guard.in_a_row + 1),
    )


def median(guard: Guard) -> Float[Array, '']:
    """Returns the median of the newest finite norms; infinite without any.

    Args:
      guard: the guard.
    """
    count = jnp.minimum(guard.seen, WINDOW)
    there = jnp.arange(WINDOW) < count
    ordered = jnp.sort(jnp.where(there, guard.norms, jnp.inf))
    return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2


def told(
    step: int, values: Mapping[str, Any], config: DivergenceConfig
) -> str | None:
    """Returns what ends the run, or sends it back; None if nothing does.

    Args:
      step: number of steps taken.
      values: metrics of a train step as they are logged.
      config: the section `divergence`.
    """
    loss = values.get('train/loss', 0.0)
    row = values.get('train/skipped_in_a_row')
    if row is None:  # of a step that leaves nothing out
        row = 0 if math.isfinite(loss) else config.max_skipped
    if row < config.max_skipped:
        return None
    what = f'train/loss is {loss:.5g}'
    if 'train/grad_norm' in values:
        what += f', train/grad_norm {values["train/grad_norm"]:.5g},'
    return f'{what} at step {step}: {row:.0f} updates in a row were left out'


def all_finite(tree: Any) -> Bool[Array, '']:
    """Returns whether every floating-point number of a tree is finite.

    Args:
      tree: arrays of any dtype.
    """
    is_float = lambda x: jnp.issubdtype(x.dtype, jnp.floating)
    leaves = [x for x in jax.tree.leaves(tree) if is_float(x)]
    checks = [jnp.all(jnp.isfinite(x)) for x in leaves]
    return jnp.all(jnp.stack(checks))
