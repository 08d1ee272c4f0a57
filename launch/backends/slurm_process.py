"""`python -m launch.backends.slurm_process MARK FOLDER [--all] -- …`: one task.

It runs a process of a trial as its child. SLURM sends USR2 before it takes the
nodes away. The child is then signalled to stop, which saves a checkpoint, and
the file MARK asks the job's script to queue the job again.
"""

import os
import pathlib
import shlex
import signal
import subprocess
import sys

# Of the ports that JAX takes for a job's coordinator, by its number.
_PORTS, _FIRST = 4096, 61_440


def main(argv: list[str]) -> int:
    """Runs the child to its end; returns the exit code.

    Args:
      argv: the program; the file that asks for another start; the trial's
        folder, where the first process logs to `log.txt`, the second to
        `log.1.txt`, and so on; `--all` if the child drives all GPUs of its
        node; `--` and the arguments of the interpreter.
    """
    mark, folder = map(pathlib.Path, argv[1:3])
    drives_all, arguments = argv[3] == '--all', argv[argv.index('--') + 1 :]
    rank = int(os.environ['SLURM_PROCID'])
    if drives_all:
        arguments += _meeting(rank)
    folder.mkdir(parents=True, exist_ok=True)
    name = f'log.{rank}.txt' if rank else 'log.txt'
    with open(folder / name, 'a') as log:
        child = subprocess.Popen(
            [sys.executable, *arguments],
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
            mark.touch()
        return 0
    if code:
        print(f'{shlex.join(arguments)}: exit code {code}', file=sys.stderr)
    return 1 if code else 0


def _meeting(rank: int) -> list[str]:
    """Returns the flags by which processes find each other.

    Without them JAX gives each process one GPU of its node.
    """
    port = _FIRST + int(os.environ['SLURM_JOB_ID']) % _PORTS
    return [
        f'--coordinator={os.environ["SLURM_LAUNCH_NODE_IPADDR"]}:{port}',
        f'--processes={os.environ["SLURM_NTASKS"]}',
        f'--process={rank}',
    ]


def _ignore() -> None:
    """Ignores USR2 in the child, as SLURM signals all processes of a job."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


if __name__ == '__main__':
    sys.exit(main(sys.argv))
