"""The jobs of a sweep's submissions in SLURM's queue.

A submission is a folder with the script for sbatch, which names its trials in
the order of the array. A job is found again by the path of its script, without
other records.
"""

import pathlib
import subprocess
from typing import NamedTuple

from launch import shell

_NAMES = ': trial '

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


# Reasons for which a waiting job waits until somebody changes it, or the site:
# the beginnings of SLURM's words. Source: slurm.schedmd.com/job_reason_codes.
_NEVER = (
    'AccountNotAllowed',
    'AssocMax',
    'BadConstraints',
    'InvalidAccount',
    'InvalidQOS',
    'JobHeld',
    'MaxMemPerLimit',
    'MaxBillingPerJob',
    'MaxCpuPerNode',
    'MaxNodePerAccount',
    'NodeDown',
    'PartitionConfig',
    'PartitionDown',
    'PartitionInactive',
    'PartitionNodeLimit',
    'PartitionTimeLimit',
    'QOSMaxWall',
    'QOSMaxCpuPerJob',
    'QOSMaxNodePerJob',
    'QOSMaxGRESPerJob',
    'QOSMin',
    'QOSNotAllowed',
    'ReqNodeNotAvail',
    'Reservation_',
)


class NoAnswer(RuntimeError):
    """A command of SLURM failed; the message is SLURM's."""


class Job(NamedTuple):
    """A job of one trial.

    Attributes:
      id: id of the job in SLURM, '12_3', or '12' outside of an array.
      state: state of the job in SLURM.
      reason: why it waits, in SLURM's words.
      nodes: nodes that it runs on, or ran on.
    """

    id: str
    state: str
    reason: str = ''
    nodes: str = ''

    @property
    def waits(self) -> str:
        """Returns that it waits, and why."""
        known = self.reason not in ('', 'None')
        return f'waiting ({self.reason})' if known else 'waiting'

    @property
    def never(self) -> bool:
        """Whether it waits for what time alone does not bring."""
        return self.state == 'PENDING' and self.reason.startswith(_NEVER)

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


def next_submissions(folder: pathlib.Path, count: int) -> list[pathlib.Path]:
    """Returns the paths of the next submissions' scripts, in new folders.

    Args:
      folder: folder of all submissions of the sweep, absolute.
      count: how many there are.
    """
    numbers = [0]
    if folder.is_dir():
        names = (path.name for path in folder.iterdir())
        numbers += [int(name) for name in names if name.isdecimal()]
    first = max(numbers) + 1
    return [folder / str(first + i) / 'job.sh' for i in range(count)]


def naming(trial: str) -> str:
    """Returns the line of a script that names the trial of the next line.

    Args:
      trial: name of the trial.
    """
    return f'{_NAMES}{shell.quote(trial)}'


def names(script: pathlib.Path) -> list[str]:
    """Returns the names of the trials of a script, in the array's order."""
    lines = script.read_text().splitlines()
    found = (line for line in lines if line.startswith(_NAMES))
    return [
        shell.words(str(script), line.removeprefix(_NAMES))[0] for line in found
    ]


def jobs(folder: pathlib.Path) -> dict[str, Job]:
    """Returns the newest job of every trial in the queue.

    Args:
      folder: folder of all submissions of the sweep, absolute.

    Returns:
      Jobs by name of the trial.

    Raises:
      NoAnswer: if squeue fails, as during a restart of SLURM.
    """
    listing = [
        '--array',
        '--states=all',
        '--noheader',
        '--format=%i|%T|%r|%N|%o',
    ]
    newest: dict[str, Job] = {}
    for line in _slurm('squeue', '--me', *listing).splitlines():
        id, state, reason, nodes, script = line.split('|', 4)
        path = pathlib.Path(script)
        if path.parent.parent != folder:
            continue
        job = Job(id, state, reason, nodes)
        name = names(path)[job.place]
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


def failed_nodes(nodes: str) -> list[str]:
    """Returns those that do not work, of some nodes.

    Args:
      nodes: nodes as SLURM lists them, 'a[1-3],b'.

    Raises:
      NoAnswer: if sinfo fails.
    """
    found = _slurm(
        *('sinfo', '--noheader', '--Node', f'--nodes={nodes}'),
        *('--format=%N|%T', '--states=down,fail,drain,no_respond'),
    )
    return sorted({line.partition('|')[0] for line in found.splitlines()})


def exclude(job: Job, nodes: str) -> None:
    """Keeps a queued job from nodes, and from no others.

    Args:
      job: a job that waits.
      nodes: nodes as SLURM lists them.

    Raises:
      NoAnswer: if SLURM refuses.
    """
    _slurm('scontrol', 'update', f'job={job.id}', f'excnodelist={nodes}')


def _slurm(*command: str) -> str:
    """Returns the output of a command of SLURM."""
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        raise NoAnswer(' '.join(found.stderr.split()))
    return found.stdout
