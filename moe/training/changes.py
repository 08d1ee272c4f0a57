"""What may change in a run's folder, so that it goes on with another config.

A change is allowed if it leaves the meaning of the steps already taken as it
is; whatever else is refused with what to do instead.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from moe.training import history
from moe.training.restore import list_checkpoints


class Past(NamedTuple):
    """What a run has done, and the configs of before and of now.

    Attributes:
      workdir: the run's folder.
      events: its history.
      earlier: the config of before, checked.
      now: the config of now, checked.
    """

    workdir: pathlib.Path
    events: Sequence[history.Event]
    earlier: Any
    now: Any

    def steps_taken(self) -> int:
        """Returns the step of the newest checkpoint."""
        entries = list_checkpoints(self.workdir)
        return entries[0].step if entries else 0


# What is to be done instead of a change from the first value to the second;
# None if the change is allowed.
Rule = Callable[[Any, Any, Past], str | None]


def remedy(field: str, old: Any, new: Any, past: Past) -> str | None:
    """Returns what to do instead of a change; None if it is allowed.

    Args:
      field: dotted name of the field, without `config`.
      old: its value in the run.
      new: the value that is given now.
      past: what the run has done.

    Returns:
      A phrase, '' if there is nothing but a new folder.
    """
    for name, rule in _RULES.items():
        if f'{field}.'.startswith(f'{name}.'):
            return rule(old, new, past)
    return ''


def _free(old: Any, new: Any, past: Past) -> None:
    return None


def _lower_after_divergence(old: Any, new: Any, past: Past) -> str | None:
    field, diverged = 'optimizer.learning_rate', False
    for event in past.events:
        if event['event'] == history.DIVERGED:
            diverged = True
        elif field in event.get('changes', {}):
            diverged = False
    if not diverged:
        return 'it may be lower after a divergence alone'
    numbers = isinstance(old, (int, float)) and isinstance(new, (int, float))
    lower = numbers and new < old
    return None if lower else 'it may be lower after a divergence'


def _as_before(old: Any, new: Any, past: Past) -> str | None:
    """Allows a schedule by which the steps taken would have been the same."""
    taken = past.steps_taken()
    if past.now.steps < taken:
        return f'it may be {taken} or more, the steps taken'
    # The peak has a rule of its own.
    rates = [
        jax.vmap(config.optimizer.schedule(1.0, config.steps))
        for config in (past.earlier, past.now)
    ]
    before, after = (np.asarray(rate(jnp.arange(taken))) for rate in rates)
    other = np.flatnonzero(~np.isclose(before, after, rtol=1e-6, atol=0.0))
    if not other.size:
        return None
    return (
        f'the learning rate of step {other[0] + 1} of the {taken} taken would '
        'have been another: it may change as long as the schedule is constant '
        'up to there, as constant and warmup_stable_decay are'
    )


# The fields that do not change the meaning of the steps already taken, those
# of which that depends, and the one that a divergence leaves to be changed.
_RULES: Mapping[str, Rule] = {
    'mesh': _free,
    'log_every': _free,
    'eval_every': _free,
    'checkpoint_every': _free,
    'keep_checkpoints': _free,
    'metrics': _free,
    'best': _free,
    'divergence': _free,
    'plugins': _free,
    'profile': _free,
    'wandb': _free,
    'sample_prompt': _free,
    'sample_length': _free,
    'capacity_curve': _free,
    'model.attention': _free,
    'model.moe.dispatcher': _free,
    'model.remat': _free,
    'steps': _as_before,
    'optimizer.schedule': _as_before,
    'optimizer.learning_rate': _lower_after_divergence,
}
