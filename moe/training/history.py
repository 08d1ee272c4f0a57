"""The history of a run: `history.jsonl` in its folder, one event a line.

It tells when the run started, went on, stopped, diverged and ended, and which
fields of its config have changed on the way.
"""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moe import files
from moe.training.host import now, this_process

NAME = 'history.jsonl'
STARTED, RESUMED, CHANGED = 'started', 'resumed', 'changed'
STOPPED, DIVERGED, FINISHED = 'stopped', 'diverged', 'finished'
WENT_BACK = 'went back'

Event = dict[str, Any]
# What would be allowed in the place of a change from the first value to the
# second after the events of a run; None if the change is.
Rule = Callable[[Any, Any, Sequence[Event]], str | None]


def record(workdir: pathlib.Path, event: str, **facts: Any) -> None:
    """Appends an event, with the time and the process.

    Args:
      workdir: the run's folder.
      event: the kind of event, one of the constants of this module.
      **facts: what else is known, JSON.
    """
    told = {'time': now(), 'event': event, **facts, **this_process()}
    files.append_line(workdir / NAME, json.dumps(told))


def read(workdir: pathlib.Path) -> list[Event]:
    """Returns the events of a run in order; without the broken lines.

    Args:
      workdir: the run's folder; a run of before there was a history has none.
    """
    path, events = workdir / NAME, []
    lines = path.read_bytes().split(b'\n') if path.exists() else []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get('event'), str):
            events.append(event)
    return events


def refusal(
    field: str, old: Any, new: Any, events: Sequence[Event]
) -> str | None:
    """Returns what is allowed instead of a change; None if the change is.

    Args:
      field: dotted name of the field, without `config`.
      old: its value in the run.
      new: the value that is given now.
      events: the history of the run.

    Returns:
      What the field may be, '' if only what it was.
    """
    for name, rule in _RULES.items():
        if f'{field}.'.startswith(f'{name}.'):
            return rule(old, new, events)
    return ''


def _free(old: Any, new: Any, events: Sequence[Event]) -> None:
    return None


def _lower_after_divergence(
    old: Any, new: Any, events: Sequence[Event]
) -> str | None:
    field, diverged = 'optimizer.learning_rate', False
    for event in events:
        if event['event'] == DIVERGED:
            diverged = True
        elif field in event.get('changes', {}):
            diverged = False
    if not diverged:
        return 'lower after a divergence alone'
    numbers = isinstance(old, (int, float)) and isinstance(new, (int, float))
    return None if numbers and new < old else 'lower after a divergence'


# The fields that do not change the meaning of the steps already taken, and
# the one that a divergence leaves to be changed.
_RULES: Mapping[str, Rule] = {
    'mesh': _free,
    'log_every': _free,
    'eval_every': _free,
    'checkpoint_every': _free,
    'keep_checkpoints': _free,
    'optimizer.learning_rate': _lower_after_divergence,
}
