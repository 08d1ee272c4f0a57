"""The command that trains, up to the shapes of its first step, in process."""

import contextlib
import io
import pathlib
import shutil
import signal
from typing import NamedTuple

import jax

import train
from moe.parallel import host_of
from moe.training import loop
from moe.training.step import init_state, make_train_step

SECONDS = 30  # nothing takes that long, on a busy machine


class Accepted(BaseException):
    """A run that would train: its step has shapes."""


class Outcome(NamedTuple):
    """What came of a command.

    Attributes:
      code: exit code; None if it would train.
      lines: what it wrote to standard error.
      left: what it left of its folder.
    """

    code: int | None
    lines: list[str]
    left: list[str]

    @property
    def fault(self):
        """What is wrong with the outcome, '' if nothing is."""
        if self.code is None:
            return ''
        if self.code not in (2, 3):
            return f'exit code {self.code}'
        if len(self.lines) != 1 or not self.lines[0].isprintable():
            return f'{len(self.lines)} lines: {self.lines[:3]}'
        return f'left behind: {self.left}' if self.left else ''


class Shapes:
    """In the place of the trainer: takes the first step on shapes alone.

    The step of one run in four, as tracing is what takes the time; those of
    parameters and optimizer are known before.
    """

    count = 0

    def __init__(self, config, workdir, workload, data, mesh):
        batch = next(iter(workload.train_batches(data, *host_of(mesh))))
        Shapes.count += 1
        if Shapes.count % 4 == 1:
            make = lambda: init_state(config, workload=workload)
            step = make_train_step(config, workload)
            jax.eval_shape(step, jax.eval_shape(make), batch)
        raise Accepted


@contextlib.contextmanager
def limited():
    """Raises TimeoutError in what takes too long."""

    def stop(number, frame):
        raise TimeoutError(f'more than {SECONDS} s')

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def call(main, flags, argv):
    """Calls a command; returns its exit code and the lines of its errors."""
    for name in flags:
        flags[name].unparse()  # of the call before
    err, out = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stderr(err),
        contextlib.redirect_stdout(out),
        limited(),
    ):
        try:
            code = main(argv)
        except SystemExit as error:
            code = error.code
        except Accepted:
            code = None
    return code, err.getvalue().splitlines()


def outcome(arguments, workdir):
    """The Outcome of `train.py` with arguments beside the folder."""
    workdir = pathlib.Path(workdir)
    trainer, loop.MeshTrainer = loop.MeshTrainer, Shapes
    try:
        argv = ['train.py', f'--workdir={workdir}', *arguments]
        code, lines = call(train.main, train._FLAGS, argv)
    finally:
        loop.MeshTrainer = trainer
    left = sorted(p.name for p in workdir.rglob('*')) if code else []
    shutil.rmtree(workdir, ignore_errors=True)
    return Outcome(code, lines, left)
