"""The backend that runs trials on TPU pods, by one of several engines.

Every step is a command line of gcloud, gcluster, xpk or sky, printed before it
is run; `dry_run` prints the same. A trial whose pod is lost resumes from its
checkpoint when it is started again with the same command.
"""

import concurrent.futures
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from launch.backends.tpu_compute import Compute
from launch.backends.tpu_engine import Command, Engine, Lot, Options
from launch.backends.tpu_gcloud import Gcloud
from launch.backends.tpu_gcluster import Gcluster
from launch.backends.tpu_skypilot import SkyPilot
from launch.backends.tpu_xpk import Xpk
from launch.trials import Trial
from moe.config import ConfigError
from moe.training.host import on_signals

__all__ = ['Options', 'dry_run', 'run']

_ENGINES: dict[str, type[Engine]] = {
    'gcloud': Gcloud,
    'compute': Compute,
    'xpk': Xpk,
    'gcluster': Gcluster,
    'skypilot': SkyPilot,
}
_GONE = ('FAILED', 'SUSPENDING', 'SUSPENDED', 'DELETING')
_UNTIL = '# again until it says ACTIVE'
_POLL = 30.0  # seconds between two queries of a pod
_UNANSWERED = 3  # failed queries in a row after which a pod counts as absent
_DELETIONS = 10  # attempts: none succeeds while a pod is being created


def run(
    trials: Sequence[Trial], options: Options, *, parallel: int, retries: int
) -> None:
    """Runs trials on pods, and deletes the pods.

    The output of a trial's commands goes to `log.txt` in its folder. On SIGTERM
    or Ctrl-C the commands end, and the pods are deleted.

    Args:
      trials: trials that are not done.
      options: options of the pods.
      parallel: number of pods at once.
      retries: number of restarts of a trial that fails.

    Raises:
      ConfigError: if the engine is not installed, or a trial's config is no
        file of the working folder; nothing is started then.
      KeyboardInterrupt: after a signal, when all pods are deleted.
    """
    engine = _engine(trials, options)
    for tool in {engine.tool, 'gcloud'}:
        if shutil.which(tool) is None:
            allowed = f'one whose tools are installed: there is no {tool}'
            raise ConfigError('tpu.engine', options.engine, allowed)
    shell = _Shell()
    with (
        on_signals((signal.SIGINT, signal.SIGTERM), lambda _: shell.stop()),
        concurrent.futures.ThreadPoolExecutor(parallel) as pool,
        contextlib.suppress(_Stopped),
    ):
        if any(shell.run(command) for command in engine.prepare()):
            print('nothing was started', file=sys.stderr, flush=True)
            return
        pods = [
            _Pod(engine, lot, shell, retries)
            for lot in engine.lots(trials, parallel)
        ]
        for done in [pool.submit(pod.run) for pod in pods]:
            done.result()
    if shell.stopping.is_set():
        raise KeyboardInterrupt


def dry_run(
    trials: Sequence[Trial], options: Options, *, parallel: int, retries: int
) -> Iterator[str]:
    """Yields the commands of `run` for a shell, as if none failed.

    Args:
      trials: trials that are not done.
      options: options of the pods.
      parallel: number of pods at once, shown one after another.
      retries: not shown.
    """
    engine = _engine(trials, options)
    yield from map(str, engine.prepare())
    for lot in engine.lots(trials, parallel):
        yield f'# {lot.name}'
        yield from map(str, engine.claim(lot.name))
        state = engine.state(lot.name)
        if state:
            yield f'{state}  {_UNTIL}'
        yield from map(str, engine.equip(lot.name))
        for trial in lot.trials:
            yield str(_make_folder(trial))
            yield from map(str, engine.train(lot.name, trial))
            yield from map(str, engine.fetch(trial))
        if not options.keep:
            yield from map(str, engine.release(lot.name))


def _engine(trials: Sequence[Trial], options: Options) -> Engine:
    for trial in trials:
        flag = next(a for a in trial.command if a.startswith('--config='))
        file = flag.removeprefix('--config=').partition(':')[0]
        _check_sent('--config', file)
        for plugin in trial.plain.get('plugins', ()):
            if plugin.endswith('.py'):  # a module comes with the requirements
                _check_sent('config.plugins', plugin)
    return _ENGINES[options.engine](options)


def _check_sent(field: str, name: str) -> None:
    """Refuses a file that is not sent to the hosts with the working folder."""
    path = pathlib.PurePath(name)
    if path.is_absolute() or path.parts[0] in ('..', 'runs'):
        allowed = 'a file that is sent to hosts: in this folder, not in runs/'
        raise ConfigError(field, name, allowed)


def _make_folder(trial: Trial) -> Command:
    return Command(('mkdir', '-p', str(trial.folder)))


class _Stopped(Exception):
    """The sweep was stopped by a signal."""


class _Shell:
    """Runs commands, from several threads, until it is stopped."""

    def __init__(self):
        self.stopping = threading.Event()
        self._running: set[subprocess.Popen] = set()

    def stop(self) -> None:
        """Ends the running commands; only `last` ones start afterwards."""
        self.stopping.set()
        for process in list(self._running):
            self._end(process)

    def run(
        self,
        command: Command,
        log: pathlib.Path | None = None,
        last: bool = False,
    ) -> int:
        """Prints a command, runs it and returns its exit code.

        Args:
          command: the command.
          log: file for its output; None is the sweep's own output.
          last: whether it also runs after a stop, and to its end.

        Raises:
          _Stopped: if there was a stop.
        """
        print(f'$ {command}', flush=True)
        with contextlib.ExitStack() as stack:
            to = None if log is None else stack.enter_context(log.open('a'))
            process = self._start(command, last, stdout=to, stderr=to)
            return self._finish(process, command, last)[0]

    def ask(self, command: Command) -> str | None:
        """Returns the output of a command, without the end of the line.

        Args:
          command: the command.

        Returns:
          The text, None if the command fails.

        Raises:
          _Stopped: if there was a stop.
        """
        process = self._start(command, False, stdout=subprocess.PIPE)
        code, text = self._finish(process, command, False)
        return None if code else text.strip()

    def sleep(self) -> None:
        """Waits before the next query of a pod."""
        self.stopping.wait(_POLL)

    def _start(self, command: Command, last: bool, **streams):
        if self.stopping.is_set() and not last:
            raise _Stopped
        return subprocess.Popen(
            command.argv,
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for us alone
            **streams,
        )

    def _end(self, process: subprocess.Popen) -> None:
        # gcloud is a shell that waits for Python: both are meant.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)

    def _finish(
        self, process: subprocess.Popen, command: Command, last: bool
    ) -> tuple[int, str]:
        if not last:
            self._running.add(process)
            if self.stopping.is_set():  # since _start checked
                self._end(process)
        text, _ = process.communicate(command.stdin)
        self._running.discard(process)
        if self.stopping.is_set() and not last:
            raise _Stopped
        return process.returncode, text


class _Pod:
    """Runs the trials of a lot on a pod, one after another."""

    def __init__(self, engine: Engine, lot: Lot, shell: _Shell, retries: int):
        self._engine, self._shell, self._retries = engine, shell, retries
        self._name, self._trials = lot
        self._losses = engine.options.preemptions
        self._claimed = self._ready = False

    def run(self) -> None:
        """Runs all trials, and deletes the pod even after an error."""
        try:
            for trial in self._trials:
                self._train(trial)
        finally:
            if not self._engine.options.keep:
                self._release()

    def _train(self, trial: Trial) -> None:
        failures = 0
        while failures <= self._retries:
            if self._make_ready():
                self._attempt(trial)
                if trial.done():
                    self._say(f'{trial.name}: done')
                    return
            if not self._lost():
                failures += 1
                self._say(f'{trial.name}: failed {failures} time(s)')

    def _attempt(self, trial: Trial) -> None:
        """Runs a trial; its files say whether it is done."""
        log = trial.folder / 'log.txt'
        self._shell.run(_make_folder(trial))
        self._claimed = True
        for command in self._engine.train(self._name, trial):
            if self._shell.run(command, log):
                break
        for command in self._engine.fetch(trial):
            self._shell.run(command, log)

    def _make_ready(self) -> bool:
        """Claims and prepares the pod; returns whether trials can run."""
        if self._ready:
            return True
        for command in self._engine.claim(self._name):
            self._claimed = True
            self._shell.run(command)  # fails if the pod exists
        if not self._wait():
            return False
        equip = self._engine.equip(self._name)
        self._ready = not any(self._shell.run(command) for command in equip)
        return self._ready

    def _wait(self) -> bool:
        """Waits for the claimed pod; returns whether it is there."""
        command = self._engine.state(self._name)
        if command is None:
            return True
        print(f'$ {command}  {_UNTIL}', flush=True)
        shown, unanswered = None, 0
        while True:
            state = self._ask(command)
            if state not in (None, shown):
                self._say(state)
                shown = state
            unanswered = unanswered + 1 if state is None else 0
            if state == 'ACTIVE':
                return True
            if state in _GONE or unanswered == _UNANSWERED:
                return False
            self._shell.sleep()

    def _ask(self, command: Command) -> str | None:
        answer = self._shell.ask(command)
        return None if answer is None else self._engine.read_state(answer)

    def _lost(self) -> bool:
        """Whether the pod was lost, so that the trial did not fail itself."""
        self._ready = False
        command = self._engine.state(self._name)
        if command is None:  # a job has ended; its name must become free
            self._release()
            return False
        self._shell.sleep()  # a loss shows late
        if self._ask(command) not in _GONE:
            return False
        self._say('lost')
        self._release()
        self._losses -= 1
        return self._losses >= 0

    def _release(self) -> None:
        if not self._claimed:
            return
        for command in self._engine.release(self._name):
            for _ in range(_DELETIONS):
                if not self._shell.run(command, last=True):
                    break
                time.sleep(_POLL)
            else:
                self._say(f'may still exist, and cost: {command}')
        self._claimed = self._ready = False

    def _say(self, text: str) -> None:
        print(f'{self._name}: {text}', flush=True)
