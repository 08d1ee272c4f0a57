"""The backend that runs trials as SLURM job arrays.

Trials of the same resources are one array.

The state is in SLURM's queue alone: the command can be stopped and started at
any time, and finds the jobs again. What the dry run prints is what is
submitted.
"""

import contextlib
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from launch import progress, shell
from launch.backends import slurm_queue
from launch.backends.slurm_options import Options, check_directive
from launch.backends.slurm_queue import Job, NoAnswer
from launch.trials import Trial
from moe import files
from moe.config import ConfigError

__all__ = ['Options', 'dry_run', 'run']

# What srun runs, then what queues the job again if a trial was asked to stop:
# at its index in its array, as often as is allowed.
_AGAIN = """\
code=$?
if [ -e "$mark" ]; then
  rm "$mark"
  if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {requeues} ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
  else
    echo 'queued again {requeues} times, as often as slurm.requeues allows'
    exit 1
  fi
fi
exit $code"""


def run(
    trials: Sequence[Trial], options: Options, *, parallel: int, retries: int
) -> None:
    """Submits the trials that have no running job, and follows all jobs.

    Args:
      trials: trials that are not done, in folders below the sweep's.
      options: resources of each trial, where it has none of its own.
      parallel: number of trials of the same resources at once.
      retries: number of restarts of a trial that fails.

    Raises:
      ConfigError: without SLURM, or if sbatch refuses the jobs.
    """
    if not shutil.which('sbatch'):
        allowed = 'used where sbatch is, as on the login node of a cluster'
        raise ConfigError('--backend', 'slurm', allowed)
    folder = _submissions(trials)
    try:
        jobs = slurm_queue.jobs(folder)
    except NoAnswer as error:
        allowed = f'used where squeue answers ({error})'
        raise ConfigError('--backend', 'slurm', allowed) from None
    idle = [t for t in trials if t.name not in jobs or jobs[t.name].ended]
    for path, own, group in _arrays(idle, options, folder):
        for line in own.warnings():
            print(f'launch.sweep: warning: {line}', file=sys.stderr)
        _submit(path, group, own, parallel)
    _follow(trials, retries, options, folder)


def dry_run(
    trials: Sequence[Trial], options: Options, *, parallel: int, retries: int
) -> Iterator[str]:
    """Yields the lines of a shell command that submits the trials.

    `run` submits the same script; it also follows the jobs, and starts those
    again that fail.

    Args:
      trials: trials in folders below the sweep's.
      options: resources of each trial, where it has none of its own.
      parallel: number of trials of the same resources at once.
      retries: not shown.

    Raises:
      ConfigError: for an option of a trial that it cannot have.
    """
    del retries
    if not trials:
        return
    for path, own, group in _arrays(trials, options, _submissions(trials)):
        text = _script(group, own, parallel, path)
        yield from (f'# warning: {line}' for line in own.warnings())
        yield shell.join(['mkdir', '-p', str(path.parent)])
        yield from shell.here_document(
            shell.join(['tee', str(path)]) + ' > /dev/null', text
        )
        yield shell.join(['sbatch', str(path)])


def _arrays(
    trials: Sequence[Trial], options: Options, folder: pathlib.Path
) -> list[tuple[pathlib.Path, Options, list[Trial]]]:
    """Returns the path of the script, the options and the trials by array."""
    found: dict[Options, list[Trial]] = {}
    for trial in trials:
        own = options.of_trial(trial.name, trial.slurm)
        found.setdefault(own, []).append(trial)
    paths = slurm_queue.next_submissions(folder, len(found))
    return [
        (path, *group) for path, group in zip(paths, found.items(), strict=True)
    ]


def _script(
    trials: Sequence[Trial],
    options: Options,
    parallel: int,
    path: pathlib.Path,
) -> str:
    """Returns the script of a job array, to be written to a path."""
    folder = path.parent
    given = [
        f'--job-name={shell.quote(folder.parent.parent.name)}',
        f'--array=0-{len(trials) - 1}%{parallel}',
        f'--output={shell.quote(f"{folder}/%A_%a.out")}',
        f'--signal=USR2@{options.grace}',
        *options.directives(),
    ]
    check_directive('--workdir', str(folder))
    here = str(pathlib.Path.cwd())
    launcher = options.launcher([here, str(folder.parent.parent)])
    lines = ['#!/bin/bash', *(f'#SBATCH {line}' for line in given)]
    mark = shell.quote(f'{folder}/again_')
    lines += [options.setup] * bool(options.setup)
    lines += [
        f'mark={mark}$SLURM_ARRAY_TASK_ID',
        'case $SLURM_ARRAY_TASK_ID in',
    ]
    for i, trial in enumerate(trials):
        words = [*launcher, '-m', 'launch.backends.slurm_process']
        more = ['--all'] * options.drives_all
        rest = [str(trial.folder), *more, '--', *trial.command]
        rest += ['--distributed'] * (options.tasks > 1)
        line = f'{shell.join(words)} "$mark" {shell.join(rest)}'
        lines += [f'{i})', slurm_queue.naming(trial.name), line, ';;']
    lines += ['esac', _AGAIN.format(requeues=options.requeues)]
    return '\n'.join(lines) + '\n'


def _submissions(trials: Sequence[Trial]) -> pathlib.Path:
    """Returns the resolved folder of a sweep's submissions."""
    return trials[0].folder.parent.resolve() / '.slurm'


def _submit(
    path: pathlib.Path,
    trials: Sequence[Trial],
    options: Options,
    parallel: int,
) -> None:
    """Submits the trials as one array, by a script at a path."""
    path.parent.mkdir(parents=True)
    files.write_text(path, _script(trials, options, parallel, path))
    done = subprocess.run(
        ['sbatch', '--parsable', str(path)], capture_output=True, text=True
    )
    if done.returncode:
        allowed = f'accepted by sbatch: {" ".join(done.stderr.split())}'
        given = ' '.join(options.directives())
        raise ConfigError('slurm', given, allowed)
    number = done.stdout.strip().partition(';')[0]
    for i, trial in enumerate(trials):
        print(f'{trial.name}: job {number}_{i}', flush=True)


class _Followed:
    """A trial and the state of its jobs."""

    def __init__(self, trial: Trial, retries: int, exclude: str):
        self._trial, self._left = trial, retries
        self.state, self.attempts, self.reason = 'waiting', 1, ''
        self._told = self._ran_on = ''
        self._exclude = [exclude] * bool(exclude)

    @property
    def ended(self) -> bool:
        """Whether it will not be started again."""
        return self.state in ('done', 'failed', 'cancelled')

    def look(self, job: Job | None) -> None:
        """Updates the state by its newest job; requeues an ended one if needed.

        Args:
          job: the newest job; None if the queue has forgotten it.
        """
        if job and not job.ended:
            if self._ran_on and job.state == 'PENDING':
                self._leave_out_failed(job)
            self._ran_on = job.nodes if job.state == 'RUNNING' else ''
            self.state = 'running' if job.state == 'RUNNING' else job.waits
            if job.never and job.reason != self._told:
                self._told = job.reason
                print(
                    f'trial {self._trial.name}: job {job.id} cannot start as '
                    f'it is: {job.reason} (scancel {job.id} ends it)',
                    file=sys.stderr,
                    flush=True,
                )
        elif self._trial.done():
            self.state = 'done'
        elif job and job.state == 'CANCELLED':  # by a person
            self._end('cancelled', job.state)
        elif not job:
            self._end('failed', 'no longer in the queue')
        else:
            self._again(job)

    def row(self) -> progress.Row:
        """Returns its progress."""
        newest, steps = self._trial.newest(), self._trial.plain['steps']
        loss, step = newest.get('train/loss'), newest.get('step', 0)
        return progress.Row(
            self._trial.name, self.state, step, steps, loss, None, self.attempts
        )

    def _leave_out_failed(self, job: Job) -> None:
        # SLURM itself queues a job again whose node failed, and may choose the
        # same node when that is back.
        failed = slurm_queue.failed_nodes(self._ran_on)
        if not failed:
            return
        self._exclude += failed
        slurm_queue.exclude(job, ','.join(self._exclude))
        self.attempts += 1
        print(
            f'trial {self._trial.name}: {", ".join(failed)} failed, job '
            f'{job.id} is for other nodes',
            file=sys.stderr,
            flush=True,
        )

    def _again(self, job: Job) -> None:
        # A trial that was signalled to stop exits without an error; only a
        # failure counts as a retry.
        failed = job.state not in ('COMPLETED', 'PREEMPTED')
        if failed and not self._left:
            self._end('failed', job.state)
            return
        try:
            slurm_queue.requeue(job)
        except NoAnswer as error:
            self._end('failed', f'{job.state}, {error}')
            return
        self._left -= failed
        self.state, self.attempts = 'waiting', self.attempts + 1

    def _end(self, state: str, why: str) -> None:
        self.state = state
        self.reason = (
            f'trial {self._trial.name}: {state} at step {self._trial.step()} '
            f'({why}); see {self._trial.folder / "log.txt"}'
        )


def _follow(
    trials: Sequence[Trial],
    retries: int,
    options: Options,
    folder: pathlib.Path,
) -> None:
    """Shows the progress of the trials until all have ended."""
    own = {t.name: options.of_trial(t.name, t.slurm) for t in trials}
    followed = {
        t.name: _Followed(t, retries, own[t.name].exclude) for t in trials
    }
    jobs: dict[str, Job] = {}
    try:
        with progress.display() as show:
            while True:
                # SLURM may be restarted meanwhile.
                with contextlib.suppress(NoAnswer):
                    jobs = slurm_queue.jobs(folder)
                    for name, trial in followed.items():
                        if not trial.ended:
                            trial.look(jobs.get(name))
                show([trial.row() for trial in followed.values()])
                if all(trial.ended for trial in followed.values()):
                    break
                time.sleep(options.poll)
    except KeyboardInterrupt:
        ids = sorted({job.array for job in jobs.values() if not job.ended})
        numbers = ' '.join(map(str, ids))
        print(
            'the jobs keep running: squeue --me shows them, '
            f'scancel {numbers} ends them, the same command follows them',
            flush=True,
        )
        raise
    for trial in followed.values():
        if trial.reason:
            print(trial.reason, file=sys.stderr, flush=True)
