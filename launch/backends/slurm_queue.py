"""What SLURM's queue knows of the submissions of a sweep.

A submission is a folder with the script that sbatch was given and
`trials.json`, the names of its trials in the order of the array. By the path
of its script a job is found again, with nothing written down after it began.
"""

import json
import pathlib
import subprocess
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

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
    """SLURM does not do what it was asked to; its own words."""


class Job(NamedTuple):
    """A job of one trial.

    Attributes:
      id: as SLURM's commands take it, '12_3', or '12' if it is no array's.
      state: in SLURM's word.
    """

    id: str
    state: str

    @property
    def array(self) -> int:
        """The number of its array; a later one is greater."""
        return int(self.id.partition('_')[0])

    @property
    def place(self) -> int:
        """Which of the array it is."""
        return int(self.id.partition('_')[2] or 0)

    @property
    def ended(self) -> bool:
        """Whether SLURM will not start it again by itself."""
        return self.state in _ENDED


def new_submission(folder: pathlib.Path, names: Sequence[str]) -> pathlib.Path:
    """Makes the folder of a submission.

    Args:
      folder: of all submissions of the sweep, absolute, made if absent.
      names: of the trials, in the order of the array.

    Returns:
      The new folder. No other submission was ever in it: submitit would take
      the results there for those of a new job with an old number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    prefix = time.strftime('%Y%m%d-%H%M%S-')
    made = pathlib.Path(tempfile.mkdtemp(dir=folder, prefix=prefix))
    (made / 'trials.json').write_text(json.dumps(names))
    return made


def jobs(folder: pathlib.Path) -> dict[str, Job]:
    """The newest job of every trial that the queue still knows of.

    Args:
      folder: of all submissions of the sweep, absolute.

    Returns:
      Job by name of the trial.

    Raises:
      NoAnswer: as it does when its administrators restart it.
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
    """Starts an ended job again, in its place in its array.

    Args:
      job: that has ended.

    Raises:
      NoAnswer: if SLURM has forgotten it, say.
    """
    _slurm('scontrol', 'requeue', job.id)


def _slurm(*command: str) -> str:
    """What a command of SLURM prints."""
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        raise NoAnswer(' '.join(found.stderr.split()))
    return found.stdout
