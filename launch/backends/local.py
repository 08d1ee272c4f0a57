"""The backend that runs trials as processes of this machine."""

import contextlib
import dataclasses
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import IO, NamedTuple

from launch import progress, shell
from launch.trials import Trial
from moe.config import ConfigError, NaturalInt, PositiveInt
from moe.training.host import on_signals

_POLL = 0.5  # seconds
_PINS = hasattr(os, 'sched_setaffinity')  # on Linux


@dataclasses.dataclass(frozen=True)
class Options:
    """The resources of a trial.

    Attributes:
      cores: number of CPU cores of a trial, and of threads of XLA; 0 divides
        all cores.
      devices: number of JAX devices, virtual ones of the CPU without `gpus`.
      gpus: GPUs to use, as CUDA_VISIBLE_DEVICES names them, '0,1,2,3'; each
        trial has `devices` of them.
    """

    cores: NaturalInt = 0
    devices: PositiveInt = 1
    gpus: str = ''


class Slot(NamedTuple):
    """Resources for one trial at a time.

    Attributes:
      cores: CPU cores; () if processes cannot be pinned.
      environment: additional environment variables.
    """

    cores: tuple[int, ...]
    environment: dict[str, str]


def run(
    trials: Sequence[Trial], options: Options, *, parallel: int, retries: int
) -> None:
    """Runs trials, several at once, each in a process of its own.

    Output goes to `log.txt` in the trial's folder. On SIGTERM or Ctrl-C the
    trials save a checkpoint and stop; a second signal kills them.

    Args:
      trials: trials that are not done.
      options: resources of each trial.
      parallel: number of trials at once.
      retries: number of restarts of a trial that fails.

    Raises:
      ConfigError: if there are not enough cores or GPUs, or a process of an
        earlier sweep still runs one of the trials; nothing is started then.
      KeyboardInterrupt: after a signal, when the trials have ended.
    """
    free = slots(options, parallel)
    for trial in trials:
        _open_log(trial).close()
    jobs = [_Job(trial, retries) for trial in trials]
    seen: list[int] = []
    stops = (signal.SIGINT, signal.SIGTERM)
    with on_signals(stops, seen.append), progress.display() as show:
        while any(job.busy for job in jobs) or (
            not seen and any(job.state == 'waiting' for job in jobs)
        ):
            for job in jobs:
                if job.state == 'waiting' and free and not seen:
                    job.start(free.pop(0))
                if seen and job.busy:
                    job.stop(kill=len(seen) > 1)
                freed = job.poll(stopping=bool(seen))
                free += [freed] if freed else []
            show([job.row() for job in jobs])
            time.sleep(_POLL)
    for job in jobs:
        if job.state == 'failed':
            print(job.reason, file=sys.stderr, flush=True)
    if seen:
        raise KeyboardInterrupt


def dry_run(
    trials: Sequence[Trial], options: Options, *, parallel: int, retries: int
) -> Iterator[str]:
    """Yields the trials' commands for a shell.

    Args:
      trials: trials that are not done.
      options: resources of each trial.
      parallel: number of trials at once.
      retries: not shown.
    """
    shares = slots(options, parallel)
    for i, trial in enumerate(trials):
        cores, environment = shares[i % parallel]
        names = ','.join(map(str, cores))
        pinned = ['taskset', '--cpu-list', names] if names else []
        given = [f'{name}={value}' for name, value in environment.items()]
        command = [*pinned, sys.executable, *trial.command]
        yield shell.join(['env', *given, *command])


def slots(options: Options, parallel: int) -> list[Slot]:
    """Divides the machine among trials.

    Args:
      options: resources of each trial.
      parallel: number of trials at once.

    Returns:
      One slot for each of them.

    Raises:
      ConfigError: if there are too few cores or GPUs.
    """
    usable = sorted(_affinity())
    share = options.cores or max(1, len(usable) // parallel)
    if options.cores * parallel > len(usable):
        allowed = f'at most {len(usable) // parallel}: {len(usable)} cores for '
        allowed += f'{parallel} trials at a time'
        raise ConfigError('local.cores', options.cores, allowed)
    gpus = [name for name in options.gpus.split(',') if name]
    need = options.devices * parallel
    if gpus and need > len(gpus):
        allowed = f'{need} or more, for {parallel} trials at a time'
        raise ConfigError('local.gpus', options.gpus, allowed)
    result = []
    for i in range(parallel):
        # Trials share cores if there are fewer cores than trials.
        own = range(i * share, (i + 1) * share)
        cores = [usable[n % len(usable)] for n in own if _PINS]
        mine = gpus[i * options.devices : (i + 1) * options.devices]
        environment = (
            {'CUDA_VISIBLE_DEVICES': ','.join(mine)}
            if gpus
            else {'JAX_NUM_CPU_DEVICES': str(options.devices)}
        )
        result.append(Slot(tuple(cores), environment))
    return result


class _Job:
    """A trial and the process that runs it."""

    def __init__(self, trial: Trial, retries: int):
        self._trial, self._left = trial, retries
        self._process: subprocess.Popen | None = None
        self._slot: Slot | None = None
        self._signalled: int | None = None
        self._first: tuple[int, float] | None = None
        self._newest = trial.newest()
        self.state, self.attempts, self.reason = 'waiting', 0, ''

    @property
    def busy(self) -> bool:
        """Whether its process runs."""
        return self._process is not None

    def start(self, slot: Slot) -> None:
        """Starts the trial on a slot, which it has until it ends."""
        with _open_log(self._trial) as log, _pinned(slot.cores):
            self._process = subprocess.Popen(
                [sys.executable, *self._trial.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **slot.environment},
                start_new_session=True,  # Ctrl-C is for the sweep alone
            )
        self._slot, self._first, self._signalled = slot, None, None
        self.state, self.attempts = 'running', self.attempts + 1

    def stop(self, kill: bool) -> None:
        """Signals the process, once, to save and stop; or kills it."""
        number = signal.SIGKILL if kill else signal.SIGTERM
        if self._process is not None and self._signalled != number:
            self._process.send_signal(number)
            self._signalled = number

    def poll(self, stopping: bool) -> Slot | None:
        """Returns the slot if the process has ended, else None."""
        code = None if self._process is None else self._process.poll()
        if code is None:
            return None
        self._process, slot = None, self._slot
        self._newest = self._trial.newest()
        if self._trial.done():
            self.state = 'done'
        elif stopping or code == 0:  # train.py's code after a signal
            self.state = 'interrupted'
        elif self._left:
            self.state, self._left = 'waiting', self._left - 1
        else:
            self.state = 'failed'
            log = self._trial.folder / 'log.txt'
            lines = log.read_text(errors='replace').strip().splitlines()
            last = lines[-1] if lines else 'no output'
            self.reason = (
                f'trial {self._trial.name}: failed {self.attempts} time(s), '
                f'exit code {code}: {last} ({log})'
            )
        return slot

    def row(self) -> progress.Row:
        """Returns its progress."""
        if self.busy:
            self._newest = self._trial.newest()
        newest = self._newest
        step, steps = newest.get('step', 0), self._trial.plain['steps']
        left, now = None, time.monotonic()
        if self.state == 'running' and step:
            first, then = self._first = self._first or (step, now)
            if step > first:
                left = (steps - step) * (now - then) / (step - first)
        return progress.Row(
            self._trial.name,
            self.state,
            step,
            steps,
            newest.get('train/loss'),
            left,
            self.attempts,
        )


def _affinity() -> set[int]:
    """Returns the cores that this process may use."""
    if _PINS:
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


@contextlib.contextmanager
def _pinned(cores: Sequence[int]) -> Iterator[None]:
    """Pins processes started inside the block to cores, if there are any."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _open_log(trial: Trial) -> IO:
    """Opens the log of a trial, locked while a process writes to it."""
    try:
        trial.folder.mkdir(parents=True, exist_ok=True)
        log = (trial.folder / 'log.txt').open('a')
    except OSError as error:
        allowed = f'a folder, or the name of a new one ({error.strerror})'
        raise ConfigError('--workdir', str(trial.folder), allowed) from None
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        log.close()
        allowed = 'free: a process of an earlier sweep still runs in it'
        raise ConfigError('trial', str(trial.folder), allowed) from None
    return log
