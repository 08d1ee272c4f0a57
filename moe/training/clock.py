"""How fast a run trains, and how long it still will."""

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

from moe.training.workload import Workload


class Clock:
    """Measures the time of training alone.

    It starts when the first step is over, which is compiled, and stands still
    in evaluations and while checkpoints are handed over.

    Args:
      steps: number of steps of the whole run.
      workload: workload of the run, with the unit of speed.
    """

    def __init__(self, steps: int, workload: Workload):
        self._steps, self._workload = steps, workload
        self._idle = 0.0
        self._since: float | None = None  # when it was stopped, if it is
        # Step and time of the last speed, and of the newest step.
        self._base: tuple[int, float] | None = None
        self._newest: tuple[int, float] | None = None
        self._rate: float | None = None
        # Time for data since the base, and its share of the last rate's.
        self._waited: float | None = None
        self._share: float | None = None

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside the block as waiting for data."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._waited = (self._waited or 0.0) + time.perf_counter() - begun

    def reached(self, step: int) -> None:
        """Notes that a step is over.

        Args:
          step: number of steps taken.
        """
        if self._newest is None or step > self._newest[0]:
            self._newest = (step, self._now())
        if self._base is None:
            self._base, self._waited = self._newest, self._waited and 0.0

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Does not count the time inside the block."""
        self._since = begun = time.perf_counter()
        try:
            yield
        finally:
            self._idle += time.perf_counter() - begun
            self._since = None

    def _now(self) -> float:
        now = time.perf_counter() if self._since is None else self._since
        return now - self._idle

    def speed(self) -> dict[str, float]:
        """Returns the speed since the last call, as metrics.

        They are empty before the second step, of which alone it is known. If
        `waiting` is called, the share of the time for data is one of them.
        """
        if self._base and self._newest and self._newest > self._base:
            steps = self._newest[0] - self._base[0]
            seconds = max(self._newest[1] - self._base[1], 1e-9)
            self._rate, self._base = steps / seconds, self._newest
            if self._waited is not None:
                self._share = min(self._waited / seconds, 1.0)
                self._waited = 0.0
        if self._rate is None:
            return {}
        workload = self._workload
        speed = self._rate * workload.units_per_step
        found = {f'train/{workload.unit}_per_second': speed}
        if self._share is not None:
            found['cost/data_wait'] = self._share
        return found

    def line(self, step: int, values: dict[str, Any]) -> str:
        """Returns the line to print for metrics, which include the speed."""
        unit = self._workload.unit
        parts = [
            f'step {step:>{len(str(self._steps))}}/{self._steps}',
            f'loss {values.get("train/loss", math.nan):.4f}',
        ]
        if self._rate is not None:
            left = round((self._steps - step) / self._rate)
            speed = values[f'train/{unit}_per_second']
            parts += [
                f'{speed:,.0f} {unit}/s',
                f'{left // 60}m{left % 60:02}s left',
            ]
        loads = [v for k, v in values.items() if k.endswith('/load_max')]
        if loads:
            parts.append(f'max load {max(loads):.2f}')
        return '  '.join(parts)
