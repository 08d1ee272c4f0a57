"""The backend that runs trials as one SLURM job array, by submitit.

The state is in SLURM's queue alone: the command can be stopped and started at
any time, and finds the jobs again.
"""

import contextlib
import dataclasses
import io
import pathlib
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from launch import progress, shell
from launch.backends import slurm_queue
from launch.backends.slurm_process import Process
from launch.backends.slurm_queue import Job, NoAnswer
from launch.trials import Trial
from moe.config import ConfigError, NaturalInt, PositiveInt


@dataclasses.dataclass(frozen=True)
class Options:
    """The resources of a trial; 0 and '' are the cluster's defaults.

    Attributes:
      nodes: number of nodes of a trial.
      gpus_per_node: number of GPUs of a node.
      tasks_per_node: number of processes of a node; 0 is one for each GPU, or
        one.
      cpus_per_task: number of CPUs of a process.
      memory: memory of a node, as SLURM writes it: '64G'.
      minutes: time limit; a trial that reaches it is requeued and resumes.
      grace: seconds before the limit at which a trial is signalled to stop.
      partition: partition to submit to.
      account: account to charge.
      qos: quality of service.
      sbatch: more arguments of sbatch, such as '--constraint=a100 --exclusive'.
      srun: more arguments of srun.
      poll: seconds between two queries of the queue.
    """

    nodes: PositiveInt = 1
    gpus_per_node: NaturalInt = 0
    tasks_per_node: NaturalInt = 0
    cpus_per_task: NaturalInt = 0
    memory: str = ''
    minutes: PositiveInt = 60
    grace: PositiveInt = 120
    partition: str = ''
    account: str = ''
    qos: str = ''
    sbatch: str = ''
    srun: str = ''
    poll: PositiveInt = 15

    def __post_init__(self):
        gpus, tasks = self.gpus_per_node, self.tasks_per_node
        if gpus and tasks not in (0, gpus) and self.tasks > 1:
            allowed = f'gpus_per_node ({gpus}): a process drives one GPU'
            raise ConfigError('tasks_per_node', tasks, allowed)
        if self.grace >= 60 * self.minutes:
            allowed = f'less than the {60 * self.minutes} s of the time limit'
            raise ConfigError('grace', self.grace, allowed)
        for name, value in dataclasses.asdict(self).items():
            _check_directive(name, str(value))
        for name in ('sbatch', 'srun'):
            for argument in _words(name, getattr(self, name)):
                if not argument.startswith('--'):
                    allowed = f"'--name=value' ({argument!r} is not)"
                    raise ConfigError(name, getattr(self, name), allowed)

    @property
    def tasks(self) -> int:
        """Returns the number of processes of a trial."""
        return self.nodes * self._on_a_node

    @property
    def _on_a_node(self) -> int:
        return self.tasks_per_node or self.gpus_per_node or 1

    def for_sbatch(self) -> dict[str, Any]:
        """Returns the parameters of sbatch for a trial's resources."""
        given = {
            'nodes': self.nodes,
            'ntasks_per_node': self._on_a_node,
            'cpus_per_task': self.cpus_per_task,
            'gpus_per_node': self.gpus_per_node,
            'mem': self.memory,
            'time': self.minutes,
            'partition': self.partition,
            'account': self.account,
            'qos': self.qos,
        }
        return {name: value for name, value in given.items() if value}

    def more_for_sbatch(self) -> dict[str, Any]:
        """Returns other parameters of sbatch, the user's included."""
        words = (w[2:].partition('=') for w in _words('sbatch', self.sbatch))
        return {'requeue': True} | {k: v or True for k, _, v in words}

    def for_srun(self) -> list[str]:
        """Returns the arguments of srun."""
        # A process that dies ends all. Since SLURM 22.05 srun does not inherit
        # the number of CPUs from sbatch.
        arguments = ['--kill-on-bad-exit=1']
        if self.cpus_per_task:
            arguments.append(f'--cpus-per-task={self.cpus_per_task}')
        return arguments + _words('srun', self.srun)


def run(
    trials: Sequence[Trial], options: Options, *, parallel: int, retries: int
) -> None:
    """Submits the trials that have no running job, and follows all jobs.

    Args:
      trials: trials that are not done, in folders below the sweep's.
      options: resources of each trial.
      parallel: number of trials at once.
      retries: number of restarts of a trial that fails.

    Raises:
      ConfigError: without SLURM or submitit, or if sbatch refuses the jobs.
    """
    _check_installed()
    folder = _submissions(trials)
    try:
        jobs = slurm_queue.jobs(folder)
    except NoAnswer as error:
        allowed = f'used where squeue answers ({error})'
        raise ConfigError('--backend', 'slurm', allowed) from None
    idle = [t for t in trials if t.name not in jobs or jobs[t.name].ended]
    if idle:
        _submit(idle, options, parallel, folder)
    _follow(trials, retries, options.poll, folder)


def dry_run(
    trials: Sequence[Trial], options: Options, *, parallel: int, retries: int
) -> Iterator[str]:
    """Yields the lines of a shell command that runs the trials as `run` does.

    It does not restart them: a job that is signalled to stop saves a
    checkpoint, and resumes when it is submitted again.

    Args:
      trials: trials in folders below the sweep's.
      options: resources of each trial.
      parallel: number of trials at once.
      retries: not shown.
    """
    del retries
    if not trials:
        return
    parameters = {
        'job_name': _submissions(trials).parent.name,
        'array': f'0-{len(trials) - 1}%{parallel}',
        'output': f'{_submissions(trials)}/%A_%a.out',
        'signal': f'TERM@{options.grace}',
        **options.for_sbatch(),
        **options.more_for_sbatch(),
    }
    _check_directive('--workdir', parameters['output'])
    script = ['#!/bin/bash']
    for name, value in parameters.items():
        flag = '--' + name.replace('_', '-')
        text = '' if value is True else f'={shlex.quote(str(value))}'
        script.append(f'#SBATCH {flag}{text}')
    script.append('case $SLURM_ARRAY_TASK_ID in')
    for i, trial in enumerate(trials):
        command = [sys.executable, *_command(trial, options)]
        line = shell.join(['srun', *options.for_srun(), *command])
        script += [f'{i}) {line}', ';;']
    script.append('esac')
    yield shell.join(['mkdir', '-p', str(_submissions(trials))])
    yield from shell.here_document('sbatch', '\n'.join(script))


def _check_directive(field: str, value: str) -> None:
    """Refuses a value that would end the line of a directive of sbatch."""
    if not value.isprintable():
        raise ConfigError(field, value, 'printable, for SLURM')


def _words(name: str, value: str) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError as error:
        raise ConfigError(name, value, f'as a shell takes it ({error})') from (
            None
        )


def _submissions(trials: Sequence[Trial]) -> pathlib.Path:
    """Returns the resolved folder of a sweep's submissions."""
    return trials[0].folder.parent.resolve() / '.slurm'


def _command(trial: Trial, options: Options) -> tuple[str, ...]:
    return trial.command + ('--distributed',) * (options.tasks > 1)


def _check_installed() -> None:
    if not shutil.which('sbatch'):
        allowed = 'used where sbatch is, as on the login node of a cluster'
        raise ConfigError('--backend', 'slurm', allowed)
    try:
        import submitit  # noqa: F401
    except ImportError:
        allowed = "used with submitit (pip install 'moe[slurm]')"
        raise ConfigError('--backend', 'slurm', allowed) from None


def _submit(
    trials: Sequence[Trial],
    options: Options,
    parallel: int,
    folder: pathlib.Path,
) -> None:
    """Submits the trials as one array."""
    import submitit  # an extra

    names = [trial.name for trial in trials]
    submitter = submitit.SlurmExecutor(
        slurm_queue.new_submission(folder, names)
    )
    submitter.update_parameters(
        job_name=folder.parent.name,
        array_parallelism=parallel,
        signal_delay_s=options.grace,
        stderr_to_stdout=True,
        srun_args=options.for_srun(),
        additional_parameters=options.more_for_sbatch(),
        **options.for_sbatch(),
    )
    processes = [Process(_command(t, options), t.folder) for t in trials]
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # repeats the error
            jobs = submitter.submit_array(processes)
    except submitit.core.utils.FailedJobError as error:
        allowed = f'accepted by sbatch: {error}'
        raise ConfigError('slurm', options.for_sbatch(), allowed) from None
    for name, job in zip(names, jobs, strict=True):
        print(f'{name}: job {job.job_id}', flush=True)


class _Followed:
    """A trial and the state of its jobs."""

    def __init__(self, trial: Trial, retries: int):
        self._trial, self._left = trial, retries
        self.state, self.attempts, self.reason = 'waiting', 1, ''

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
            self.state = 'running' if job.state == 'RUNNING' else 'waiting'
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
    trials: Sequence[Trial], retries: int, poll: int, folder: pathlib.Path
) -> None:
    """Shows the progress of the trials until all have ended."""
    followed = {trial.name: _Followed(trial, retries) for trial in trials}
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
                time.sleep(poll)
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
