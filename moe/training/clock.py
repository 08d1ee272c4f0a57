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

    def reached(self, step: int) -> None:
        """Notes that a step is over.

        Args:
          step: number of steps taken.
        """
        if self._newest is None or step > self._newest[0]:
            self._newest = (step, self._now())
        self._base = self._base or self._newest

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
        """Returns the speed since the last call, as a metric.

        It is empty before the second step, of which alone it is known.
        """
        if self._base and self._newest and self._newest > self._base:
            steps = self._newest[0] - self._base[0]
            self._rate = steps / max(self._newest[1] - self._base[1], 1e-9)
            self._base = self._newest
        if self._rate is None:
            return {}
        workload = self._workload
        return {
            f'train/{workload.unit}_per_second': self._rate
            * workload.units_per_step
        }

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
