"""Shows the progress of trials, as a live table or as lines."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import NamedTuple

_EVERY = 30.0  # seconds between lines of a trial that runs


class Row(NamedTuple):
    """The progress of one trial.

    Attributes:
      name: name of the trial.
      state: waiting, running, done, interrupted or failed.
      step: number of the last logged step.
      steps: number of steps of the whole run.
      loss: the newest training loss, None before the first.
      left: remaining seconds, None while unknown.
      attempts: number of times it was started.
    """

    name: str
    state: str
    step: int
    steps: int
    loss: float | None
    left: float | None
    attempts: int

    @property
    def cells(self) -> tuple[str, ...]:
        """Returns the cells of the trial's row in the table."""
        left = None if self.left is None else round(self.left)
        return (
            self.name,
            self.state,
            f'{self.step}/{self.steps}',
            '' if self.loss is None else f'{self.loss:.4f}',
            '' if left is None else f'{left // 60}m{left % 60:02}s',
            str(self.attempts),
        )


Show = Callable[[Sequence[Row]], None]


@contextlib.contextmanager
def display() -> Iterator[Show]:
    """Yields a function that shows rows: as a live table, or as lines."""
    if not sys.stdout.isatty() or find_spec('rich') is None:
        yield _Lines().show
        return
    from rich.live import Live  # of the extra `sweep`

    with Live(auto_refresh=False) as live:
        yield lambda rows: live.update(_table(rows), refresh=True)


def _table(rows: Sequence[Row]):
    from rich.table import Table

    table = Table('trial', 'state', 'step', 'loss', 'left', 'attempts')
    for row in rows:
        table.add_row(*row.cells)
    return table


class _Lines:
    """Prints a line for each change, and every 30 s for each running trial."""

    def __init__(self):
        self._shown: dict[str, tuple[tuple[str, int], float]] = {}

    def show(self, rows: Sequence[Row]) -> None:
        """Prints the rows that have changed."""
        now = time.monotonic()
        for row in rows:
            what = (row.state, row.attempts)
            before, then = self._shown.get(row.name, (('waiting', 0), now))
            old = row.state == 'running' and now - then >= _EVERY
            if what != before or old:
                self._shown[row.name] = (what, now)
                print(_line(row), flush=True)
            elif row.name not in self._shown:
                self._shown[row.name] = (what, now)


def _line(row: Row) -> str:
    name, state, step, loss, left, attempts = row.cells
    parts = [f'{state:<11} {name}', f'step {step}']
    parts += [f'loss {loss}'] if loss else []
    parts += [f'{left} left'] if left and state == 'running' else []
    parts += [f'attempt {attempts}'] if row.attempts > 1 else []
    return '  '.join(parts)
