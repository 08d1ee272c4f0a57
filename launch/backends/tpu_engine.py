"""What the engines that run trials on TPU pods have in common."""

import dataclasses
import hashlib
import re
import shlex
from collections.abc import Sequence
from typing import Literal, NamedTuple

from launch.trials import Trial
from moe.config import ConfigError, NaturalInt, PositiveInt

# Where hosts see the bucket.
SHARED = '/gcs'

# Source: cloud.google.com/tpu/docs/runtimes, 'TPU software versions'.
RUNTIMES = {
    'v4': 'tpu-ubuntu2204-base',
    'v5litepod': 'v2-alpha-tpuv5-lite',
    'v5p': 'v2-alpha-tpuv5',
    'v6e': 'v2-alpha-tpuv6e',
}

_NAME = r'[a-z]([a-z0-9-]{0,18}[a-z0-9])?'
_BUCKET = r'[a-z0-9][a-z0-9-]{1,61}[a-z0-9]'
_FLAG = r'[A-Za-z0-9][\w.:/@-]*'  # never another flag
_PATTERNS = {
    'name': (_NAME, 'at most 20 of a-z, 0-9 and -, from a letter on'),
    'project': (_FLAG, 'the project that pays'),
    'zone': (r'[a-z]+-[a-z]+\d+-[a-z]', 'a zone, such as us-east5-a'),
    'accelerator': (r'[a-z0-9]+-[a-z0-9-]+', 'a type, such as v5p-256'),
    'bucket': (_BUCKET, 'a bucket of a-z, 0-9 and -, without gs://'),
    'runtime': (_FLAG, 'a runtime version, such as v2-alpha-tpuv5'),
    'cluster': (_FLAG, 'the GKE cluster'),
    'image': (_FLAG, 'an image that the cluster can pull'),
}
# Engines that use a field; without a line, all do.
_USERS = {
    'project': ('gcloud', 'xpk'),
    'slices': ('gcloud', 'xpk'),
    'capacity': ('gcloud', 'skypilot'),
    'runtime': ('gcloud', 'skypilot'),
    'cluster': ('xpk',),
    'image': ('xpk',),
    'preemptions': ('gcloud', 'xpk'),
    'keep': ('gcloud',),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Where trials run and who starts them; '' where an engine has no use.

    Attributes:
      engine: `gcloud` makes TPU VMs, `xpk` submits to a GKE cluster, `skypilot`
        makes managed jobs.
      name: begins the names of all that is made, and is the sweep's folder in
        the bucket.
      project: that pays (gcloud, xpk).
      zone: of the TPUs.
      accelerator: of a slice, such as v5p-256.
      slices: a trial spans (gcloud, xpk).
      capacity: how it is paid (gcloud, skypilot); a cluster's nodes have
        theirs. `reserved` is gcloud's alone.
      bucket: Cloud Storage, the shared folder, same region.
      runtime: software of the VMs (gcloud, skypilot); '' takes the usual one
        of the accelerator.
      cluster: made by `xpk cluster create` (xpk).
      image: made of the `Dockerfile` (xpk).
      preemptions: losses of a pod that are no failure of its trial (gcloud:
        for each pod, xpk: for each trial; skypilot always goes on).
      keep: leaves the TPU VMs, which goes on to cost (gcloud).
    """

    engine: Literal['gcloud', 'xpk', 'skypilot'] = 'gcloud'
    name: str = ''
    project: str = ''
    zone: str = ''
    accelerator: str = ''
    slices: PositiveInt = 1
    capacity: Literal['on_demand', 'spot', 'reserved'] = 'on_demand'
    bucket: str = ''
    runtime: str = ''
    cluster: str = ''
    image: str = ''
    preemptions: NaturalInt = 10
    keep: bool = False

    def __post_init__(self):
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            pattern, allowed = _PATTERNS.get(name, ('', ''))
            if self.engine not in _USERS.get(name, (self.engine,)):
                if value != field.default:
                    allowed = f'absent: {self.engine} has no use for it'
                    raise ConfigError(name, value, allowed)
            elif name == 'runtime' and not value:
                if self._generation not in RUNTIMES:
                    raise ConfigError(name, value, allowed)
            elif pattern and not re.fullmatch(pattern, value):
                raise ConfigError(name, value, allowed)
        if self.engine == 'skypilot' and self.capacity == 'reserved':
            allowed = "'on_demand' or 'spot' with skypilot"
            raise ConfigError('capacity', self.capacity, allowed)

    @property
    def runtime_version(self) -> str:
        """The software of the VMs that is meant."""
        return self.runtime or RUNTIMES[self._generation]

    @property
    def _generation(self) -> str:
        return self.accelerator.partition('-')[0]


@dataclasses.dataclass(frozen=True)
class Command:
    """A command line; as a string, what a shell takes.

    Attributes:
      argv: the program and its arguments.
      stdin: what it reads, lines.
    """

    argv: tuple[str, ...]
    stdin: str = ''

    def __str__(self) -> str:
        line = shlex.join(self.argv)
        return f"{line} <<'END'\n{self.stdin}END" if self.stdin else line


class Lot(NamedTuple):
    """Trials that run one after another on what has one name."""

    name: str
    trials: Sequence[Trial]


class Engine:
    """Commands that run trials; here those of an engine that takes jobs.

    Subclasses say at least `train` and `release`.

    Args:
      options: of the sweep.
    """

    tool = ''  # the program that must be installed

    def __init__(self, options: Options):
        self.options = options

    def lots(self, trials: Sequence[Trial], parallel: int) -> list[Lot]:
        """Shares trials out; a job each, whatever may run at a time."""
        return [Lot(self.job_name(trial), [trial]) for trial in trials]

    def prepare(self) -> list[Command]:
        """Once, before anything else."""
        return []

    def claim(self, name: str) -> list[Command]:
        """Asks for what trials of a lot run on."""
        return []

    def state(self, name: str) -> Command | None:
        """Prints the state of what was claimed, ACTIVE when it is there."""
        return None

    def equip(self, name: str) -> list[Command]:
        """Makes it ready for trials."""
        return []

    def train(self, name: str, trial: Trial) -> list[Command]:
        """Runs one trial to its end; resumes it if it has begun."""
        raise NotImplementedError

    def release(self, name: str) -> list[Command]:
        """Deletes what was claimed or submitted, whatever its state."""
        raise NotImplementedError

    def fetch(self, trial: Trial) -> list[Command]:
        """Brings a trial's results here, all but its checkpoints."""
        return [
            Command(
                (
                    *('gcloud', 'storage', 'rsync', '--recursive'),
                    '--exclude=(.*/)?checkpoints/.*',
                    f'{self.url}/{trial.name}',
                    str(trial.folder),
                )
            )
        ]

    @property
    def url(self) -> str:
        """The sweep's folder in the bucket."""
        return f'gs://{self.options.bucket}/{self.options.name}'

    def job_name(self, trial: Trial) -> str:
        """A name of at most 40 characters that Kubernetes takes."""
        words = re.sub(r'[^a-z0-9]+', '-', trial.name.lower()).strip('-')
        digest = hashlib.sha256(trial.name.encode()).hexdigest()[:6]
        parts = (self.options.name, words[:12].strip('-'), digest)
        return '-'.join(filter(None, parts))

    def arguments(self, trial: Trial) -> list[str]:
        """What follows the Python interpreter on every host."""
        folder = f'{SHARED}/{self.options.name}/{trial.name}'
        return [
            *(a for a in trial.command if not a.startswith('--workdir=')),
            f'--workdir={folder}',
            '--distributed',
        ]
