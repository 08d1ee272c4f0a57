"""The process that submitit runs on the nodes of a SLURM job."""

import pathlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence


class Process:
    """One task of a job, which runs a process of a trial as its child.

    SLURM sends USR2 before it takes the nodes away. The child is then signalled
    to stop, which saves a checkpoint, and the job is requeued.

    Args:
      command: arguments of the Python interpreter.
      folder: folder of the trial, where the first process logs to `log.txt`,
        the second to `log.1.txt`, and so on.
    """

    def __init__(self, command: Sequence[str], folder: pathlib.Path):
        self._command, self._folder = command, folder

    def __call__(self) -> None:
        """Runs the child to its end.

        Raises:
          RuntimeError: if the child fails, so that the task fails.
        """
        import submitit  # an extra, and here it is

        task = submitit.JobEnvironment()
        rank = task.global_rank
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f'log.{rank}.txt' if rank else 'log.txt'
        with open(self._folder / name, 'a') as log:
            child = subprocess.Popen(
                [sys.executable, *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_ignore,
            )
        asked: list[int] = []

        def stop(number, frame):
            asked.append(number)
            child.terminate()

        signal.signal(signal.SIGUSR2, stop)
        code = child.wait()
        # SIGTERM kills a child that does not handle it yet.
        if asked and code in (0, -signal.SIGTERM):
            if rank == 0:
                # Not SLURM_JOB_ID: the last of an array has the number of all.
                again = ['scontrol', 'requeue', task.job_id]
                subprocess.run(again, check=True)
        elif code:
            raise RuntimeError(f'{shlex.join(self._command)}: exit code {code}')


def _ignore() -> None:
    """Ignores USR2 in the child, as SLURM signals all processes of a job."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
