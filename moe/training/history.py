"""The history of a run: `history.jsonl` in its folder, one event a line.

It tells when the run started, went on, stopped, diverged and ended, and which
fields of its config have changed on the way.
"""

import json
import pathlib
from typing import Any

from moe import files
from moe.training.host import now, this_process

NAME = 'history.jsonl'
STARTED, RESUMED, CHANGED = 'started', 'resumed', 'changed'
STOPPED, DIVERGED, FINISHED = 'stopped', 'diverged', 'finished'
WENT_BACK, MADE = 'went back', 'made'

Event = dict[str, Any]


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
    found = files.read_lines(workdir / NAME)
    return [event for event in found if isinstance(event.get('event'), str)]


def ended_early(workdir: pathlib.Path) -> bool:
    """Whether a finished run ended before its last step.

    Args:
      workdir: the run's folder.
    """
    ends = [event for event in read(workdir) if event['event'] == FINISHED]
    return bool(ends) and 'ended_early_at' in ends[-1]


def is_finished(workdir: pathlib.Path, final_file: str, steps: int) -> bool:
    """Whether a run has its results, those after a number of steps.

    A finished run that goes on with more steps has the results of before until
    it ends again.

    Args:
      workdir: the run's folder.
      final_file: the file that the workload writes last.
      steps: number of steps of the whole run.
    """
    ends = [e.get('step') for e in read(workdir) if e['event'] == FINISHED]
    there = (workdir / final_file).exists()
    return there and (not ends or ends[-1] == steps)
