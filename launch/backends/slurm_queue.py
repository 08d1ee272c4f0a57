"""The jobs of a sweep's submissions in SLURM's queue.

A submission is a folder with the script for sbatch and `trials.json`, the names
of its trials in the order of the array. A job is found again by the path of its
script, without other records.
"""

import json
import pathlib
import subprocess
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

from moe import files

_ENDED = (
    'BOOT_FAIL',
    'CANCELLED',
    'COMPLETED',
    'DEADLINE',
    'FAILED',
    'NODE_FAIL',
    'OUT_OF_MEMORY',
    'PREEMPTED',
    'TIMEOUT',
)


class NoAnswer(RuntimeError):
    """A command of SLURM failed; the message is SLURM's."""


class Job(NamedTuple):
    """A job of one trial.

    Attributes:
      id: id of the job in SLURM, '12_3', or '12' outside of an array.
      state: state of the job in SLURM.
    """

    id: str
    state: str

    @property
    def array(self) -> int:
        """Returns the number of its array, which grows with time."""
        return int(self.id.partition('_')[0])

    @property
    def place(self) -> int:
        """Returns its index in the array."""
        return int(self.id.partition('_')[2] or 0)

    @property
    def ended(self) -> bool:
        """Whether SLURM will not start it again by itself."""
        return self.state in _ENDED


def new_submission(folder: pathlib.Path, names: Sequence[str]) -> pathlib.Path:
    """Makes the folder of a submission.

    Args:
      folder: folder of all submissions of the sweep, absolute, made if absent.
      names: names of the trials in the order of the array.

    Returns:
      The new, empty folder: submitit would take old results for those of a new
      job with the same number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    prefix = time.strftime('%Y%m%d-%H%M%S-')
    made = pathlib.Path(tempfile.mkdtemp(dir=folder, prefix=prefix))
    files.write_text(made / 'trials.json', json.dumps(names))
    return made


def jobs(folder: pathlib.Path) -> dict[str, Job]:
    """Returns the newest job of every trial in the queue.

    Args:
      folder: folder of all submissions of the sweep, absolute.

    Returns:
      Jobs by name of the trial.

    Raises:
      NoAnswer: if squeue fails, as during a restart of SLURM.
    """
    listing = ['--array', '--states=all', '--noheader', '--format=%i|%T|%o']
    newest: dict[str, Job] = {}
    for line in _slurm('squeue', '--me', *listing).splitlines():
        id, state, script = line.split('|', 2)
        submission = pathlib.Path(script).parent
        if submission.parent != folder:
            continue
        names = json.loads((submission / 'trials.json').read_text())
        job = Job(id, state)
        name = names[job.place]
        if name not in newest or newest[name].array < job.array:
            newest[name] = job
    return newest


def requeue(job: Job) -> None:
    """Requeues an ended job, at its index in its array.

    Args:
      job: a job that has ended.

    Raises:
      NoAnswer: if SLURM refuses, or has forgotten the job.
    """
    _slurm('scontrol', 'requeue', job.id)


def _slurm(*command: str) -> str:
    """Returns the output of a command of SLURM."""
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        raise NoAnswer(' '.join(found.stderr.split()))
    return found.stdout
