"""The interface of the engines that run trials on TPU pods."""

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from launch import shell
from launch.backends.tpu_slices import CHIPS, TYPES, Slice, read
from launch.trials import Trial
from moe.config import ConfigError, NaturalInt, PositiveInt

# Where hosts mount the bucket.
SHARED = '/gcs'

_NAME = r'[a-z]([a-z0-9-]{0,18}[a-z0-9])?'
_BUCKET = r'[a-z0-9][a-z0-9-]{1,61}[a-z0-9]'
_FLAG = r'[A-Za-z0-9][\w.:/@-]*'  # never another flag
_OPTIONAL = r'|[A-Za-z0-9][\w.:/@-]*'
_PATTERNS = {
    'name': (_NAME, 'at most 20 of a-z, 0-9 and -, beginning with a letter'),
    'project': (_FLAG, 'the project that pays'),
    'zone': (r'[a-z]+-[a-z]+\d+-[a-z]', 'a zone, such as us-east5-a'),
    'bucket': (_BUCKET, 'a bucket of a-z, 0-9 and -, without gs://'),
    'runtime': (_OPTIONAL, 'a runtime version, such as v2-alpha-tpuv5'),
    'cluster': (_FLAG, 'the GKE cluster'),
    'image': (_FLAG, 'an image that the cluster can pull'),
    'network': (_OPTIONAL, 'a network'),
    'subnetwork': (_OPTIONAL, 'a subnetwork'),
    'service_account': (_OPTIONAL, 'a service account'),
    'reservation': (_OPTIONAL, 'a reservation'),
    'labels': (
        r'|[a-z][\w-]*=[\w-]*(,[a-z][\w-]*=[\w-]*)*',
        'NAME=VALUE,NAME=VALUE of a-z, 0-9, _ and -',
    ),
}
_VMS = ('gcloud', 'compute')
_CLUSTERS = ('xpk', 'gcluster')
# Engines that use a field; all use the other fields.
_USERS = {
    'project': (*_VMS, *_CLUSTERS),
    'slices': ('gcloud', *_CLUSTERS),
    'capacity': (*_VMS, 'skypilot'),
    'runtime': ('gcloud', 'skypilot'),
    'cluster': _CLUSTERS,
    'image': _CLUSTERS,
    'preemptions': (*_VMS, *_CLUSTERS),
    'keep': _VMS,
    'network': _VMS,
    'subnetwork': _VMS,
    'service_account': (*_VMS, 'gcluster'),
    'labels': _VMS,
    'internal': _VMS,
    'reservation': (*_VMS, 'gcluster'),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of TPU pods; '' for those that the engine does not use.

    Attributes:
      engine: `compute` makes hosts of Compute Engine, `gcluster` submits to a
        GKE cluster; `gcloud` makes TPU VMs by the Cloud TPU API and `xpk`
        submits to a GKE cluster, as before those two; `skypilot` makes managed
        jobs.
      name: prefix of the names of all pods and jobs, and the sweep's folder in
        the bucket.
      project: project that pays (not skypilot).
      zone: zone of the TPUs.
      accelerator: a slice as `launch.plan` names it, such as v5p:4x4x8; gcloud,
        xpk and skypilot also take an accelerator type, such as v5p-256.
      slices: number of slices of a trial (gcloud, xpk, gcluster).
      capacity: kind of capacity (gcloud, compute, skypilot; with the others the
        cluster's); `reserved` not with skypilot.
      bucket: Cloud Storage bucket in the same region, shared by all hosts.
      runtime: runtime version of the VMs (gcloud, skypilot); '' is that of the
        accelerator.
      cluster: the GKE cluster (xpk, gcluster).
      image: image built from the `Dockerfile` (xpk, gcluster).
      preemptions: number of losses of a pod that do not count as failures
        (gcloud, compute: for each pod, xpk, gcluster: for each trial; skypilot
        always resumes).
      keep: whether hosts are kept, and cost, after the sweep (gcloud, compute).
      network: network of the hosts (gcloud, compute); '' is the default one.
      subnetwork: subnetwork of the hosts (gcloud, compute).
      service_account: account that the hosts act as (gcloud, compute), or of
        Kubernetes for the pods (gcluster).
      labels: labels of what is made, NAME=VALUE,NAME=VALUE (gcloud, compute).
      internal: whether hosts have no external address and are reached through
        Identity-Aware Proxy (gcloud, compute).
      reservation: name of the reservation to take chips of (gcloud, compute,
        gcluster).
      environment: variables of the program on every host, as a shell reads
        them: "LIBTPU_INIT_ARGS='--a --b' JAX_COMPILATION_CACHE_DIR=/gcs/cache".
      flags: more flags of the command that makes the pod or job, as a shell
        reads them.
    """

    engine: Literal['gcloud', 'compute', 'xpk', 'gcluster', 'skypilot'] = (
        'gcloud'
    )
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
    network: str = ''
    subnetwork: str = ''
    service_account: str = ''
    labels: str = ''
    internal: bool = False
    reservation: str = ''
    environment: str = ''
    flags: str = ''

    def __post_init__(self):
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            pattern, allowed = _PATTERNS.get(name, ('', ''))
            if self.engine not in _USERS.get(name, (self.engine,)):
                if value != field.default:
                    allowed = f'absent: {self.engine} has no use for it'
                    raise ConfigError(name, value, allowed)
            elif pattern and not re.fullmatch(pattern, value):
                raise ConfigError(name, value, allowed)
        self._check_accelerator()
        if self.engine == 'skypilot' and self.capacity == 'reserved':
            allowed = "'on_demand' or 'spot' with skypilot"
            raise ConfigError('capacity', self.capacity, allowed)
        if self.reservation and self.capacity == 'spot':
            allowed = 'absent with spot capacity'
            raise ConfigError('reservation', self.reservation, allowed)
        for word in shell.words('environment', self.environment):
            if not re.match(r'[A-Za-z_]\w*=', word):
                allowed = f'NAME=VALUE, as a shell reads it ({word!r} is not)'
                raise ConfigError('environment', self.environment, allowed)
        for word in self.words:
            if not word.startswith('--'):
                allowed = f'--NAME=VALUE, as a shell reads it ({word!r} is not)'
                raise ConfigError('flags', self.flags, allowed)

    def _check_accelerator(self):
        """Refuses a chip that the engine's tool does not serve."""
        piece = self.piece
        if piece is None:
            if self.engine in ('compute', 'gcluster'):
                allowed = f'CHIP:TOPOLOGY with {self.engine}, such as v5p:4x4x8'
                raise ConfigError('accelerator', self.accelerator, allowed)
            kind = self.accelerator.partition('-')[0]
            needed = self.engine in _USERS['runtime'] and not self.runtime
            if needed and kind not in TYPES:
                allowed = f'one of {", ".join(TYPES)}, or with its tpu.runtime'
                raise ConfigError('accelerator', self.accelerator, allowed)
            return
        served = {
            'gcloud': [n for n, chip in CHIPS.items() if chip.type],
            'skypilot': [n for n, chip in CHIPS.items() if chip.type],
            'compute': [n for n, chip in CHIPS.items() if chip.machine],
        }
        names = served.get(self.engine, [*CHIPS])
        if piece.name not in names:
            allowed = f'one of {", ".join(names)} with {self.engine}'
            others = [e for e, known in served.items() if piece.name in known]
            allowed += f' (take {" or ".join([*others, "gcluster"])})'
            raise ConfigError('accelerator', self.accelerator, allowed)

    @property
    def piece(self) -> Slice | None:
        """Returns the slice; None for an accelerator type."""
        return read(self.accelerator)

    @property
    def type(self) -> str:
        """Returns the accelerator type of the Cloud TPU API, or xpk's."""
        piece = self.piece
        if piece is None:
            return self.accelerator
        return (
            piece.type if piece.chip.type else f'{piece.name}-{piece.topology}'
        )

    @property
    def runtime_version(self) -> str:
        """Returns the runtime version, by default the accelerator's."""
        kind = self.type.partition('-')[0]
        return self.runtime or CHIPS[TYPES[kind]].runtime

    @property
    def words(self) -> list[str]:
        """Returns the user's flags."""
        return shell.words('flags', self.flags)

    @property
    def variables(self) -> list[str]:
        """Returns the variables of the program, each NAME=VALUE."""
        return shell.words('environment', self.environment)


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

    def read_state(self, answer: str) -> str:
        """Returns the state of the pod, of the answer to `state`."""
        return answer

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
    def piece(self) -> Slice:
        """Returns the slice, for engines that take no accelerator type."""
        assert self.options.piece  # checked with the options
        return self.options.piece

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

    @property
    def exports(self) -> str:
        """Returns what sets the program's variables in a shell, or ''."""
        words = (word.partition('=') for word in self.options.variables)
        given = [f'{name}={shell.join([value])}' for name, _, value in words]
        return f'export {" ".join(given)} && ' if given else ''

    def arguments(self, trial: Trial) -> list[str]:
        """Returns the arguments of the Python interpreter on every host."""
        folder = f'{SHARED}/{self.options.name}/{trial.name}'
        return [
            *(a for a in trial.command if not a.startswith('--workdir=')),
            f'--workdir={folder}',
            '--distributed',
        ]
