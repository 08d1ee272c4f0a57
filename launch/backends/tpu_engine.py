"""The interface of the engines that run trials on TPU pods."""

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from launch import shell
from launch.trials import Trial
from moe.config import ConfigError, NaturalInt, PositiveInt

# Where hosts mount the bucket.
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
    'name': (_NAME, 'at most 20 of a-z, 0-9 and -, beginning with a letter'),
    'project': (_FLAG, 'the project that pays'),
    'zone': (r'[a-z]+-[a-z]+\d+-[a-z]', 'a zone, such as us-east5-a'),
    'accelerator': (r'[a-z0-9]+-[a-z0-9-]+', 'a type, such as v5p-256'),
    'bucket': (_BUCKET, 'a bucket of a-z, 0-9 and -, without gs://'),
    'runtime': (_FLAG, 'a runtime version, such as v2-alpha-tpuv5'),
    'cluster': (_FLAG, 'the GKE cluster'),
    'image': (_FLAG, 'an image that the cluster can pull'),
}
# Engines that use a field; all use the other fields.
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
    """Options of TPU pods; '' for those that the engine does not use.

    Attributes:
      engine: `gcloud` makes TPU VMs, `xpk` submits to a GKE cluster, `skypilot`
        makes managed jobs.
      name: prefix of the names of all pods and jobs, and the sweep's folder in
        the bucket.
      project: project that pays (gcloud, xpk).
      zone: zone of the TPUs.
      accelerator: accelerator type of a slice, such as v5p-256.
      slices: number of slices of a trial (gcloud, xpk).
      capacity: kind of capacity (gcloud, skypilot; with xpk the cluster's);
        `reserved` only with gcloud.
      bucket: Cloud Storage bucket in the same region, shared by all hosts.
      runtime: runtime version of the VMs (gcloud, skypilot); '' is that of the
        accelerator.
      cluster: cluster made by `xpk cluster create` (xpk).
      image: image built from the `Dockerfile` (xpk).
      preemptions: number of losses of a pod that do not count as failures
        (gcloud: for each pod, xpk: for each trial; skypilot always resumes).
      keep: whether TPU VMs are kept, and cost, after the sweep (gcloud).
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
        """Returns the runtime version, by default the accelerator's."""
        return self.runtime or RUNTIMES[self._generation]

    @property
    def _generation(self) -> str:
        return self.accelerator.partition('-')[0]


@dataclasses.dataclass(frozen=True)
class Command:
    """A command line; its string is for a shell.

    Attributes:
      argv: the program and its arguments.
      stdin: lines of its standard input.
    """

    argv: tuple[str, ...]
    stdin: str = ''

    def __str__(self) -> str:
        line = shell.join(self.argv)
        if not self.stdin:
            return line
        return '\n'.join(shell.here_document(line, self.stdin))


class Lot(NamedTuple):
    """Trials that run one after another on one pod, with its name."""

    name: str
    trials: Sequence[Trial]


class Engine:
    """Commands that run trials; by default those of an engine of jobs.

    Subclasses define at least `train` and `release`.

    Args:
      options: options of the pods.
    """

    tool = ''  # the program that must be installed

    def __init__(self, options: Options):
        self.options = options

    def lots(self, trials: Sequence[Trial], parallel: int) -> list[Lot]:
        """Divides trials among pods; by default each is a job of its own."""
        return [Lot(self.job_name(trial), [trial]) for trial in trials]

    def prepare(self) -> list[Command]:
        """Returns commands to run once, before all others."""
        return []

    def claim(self, name: str) -> list[Command]:
        """Returns commands that request the pod of a lot."""
        return []

    def state(self, name: str) -> Command | None:
        """Returns a command that prints the pod's state, ACTIVE when ready."""
        return None

    def equip(self, name: str) -> list[Command]:
        """Returns commands that prepare the pod for trials."""
        return []

    def train(self, name: str, trial: Trial) -> list[Command]:
        """Returns commands that run a trial to its end, or resume it."""
        raise NotImplementedError

    def release(self, name: str) -> list[Command]:
        """Returns commands that delete the pod or job, in any state."""
        raise NotImplementedError

    def fetch(self, trial: Trial) -> list[Command]:
        """Returns commands that download a trial's folder but checkpoints."""
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
        """Returns the URL of the sweep's folder in the bucket."""
        return f'gs://{self.options.bucket}/{self.options.name}'

    def job_name(self, trial: Trial) -> str:
        """Returns a name of at most 40 characters, valid in Kubernetes."""
        words = re.sub(r'[^a-z0-9]+', '-', trial.name.lower()).strip('-')
        digest = hashlib.sha256(trial.name.encode()).hexdigest()[:6]
        parts = (self.options.name, words[:12].strip('-'), digest)
        return '-'.join(filter(None, parts))

    def arguments(self, trial: Trial) -> list[str]:
        """Returns the arguments of the Python interpreter on every host."""
        folder = f'{SHARED}/{self.options.name}/{trial.name}'
        return [
            *(a for a in trial.command if not a.startswith('--workdir=')),
            f'--workdir={folder}',
            '--distributed',
        ]
