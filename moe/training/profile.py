"""A trace of some steps by JAX's profiler, for TensorBoard or xprof."""

import pathlib
from typing import Any

import jax


class Profile:
    """Traces the steps after `start` up to `stop` into `profile/`.

    Args:
      workdir: the run's folder.
      steps: (start, stop), or () for no trace.
    """

    def __init__(self, workdir: pathlib.Path, steps: tuple[int, ...]):
        self._folder, self._steps = workdir / 'profile', steps
        self._open = False

    def before(self, step: int) -> None:
        """Starts the trace, if it is to begin now.

        Args:
          step: number of steps taken.
        """
        if self._steps and step == self._steps[0]:
            jax.profiler.start_trace(str(self._folder))
            self._open = True

    def after(self, step: int, metrics: Any) -> None:
        """Waits for the devices and writes the trace, if it is to end now.

        Args:
          step: number of steps taken.
          metrics: metrics of the last of them, on the devices.
        """
        if self._open and step >= self._steps[1]:
            jax.block_until_ready(metrics)
            self.close()

    def close(self) -> None:
        """Writes the trace, if one is open."""
        if self._open:
            self._open = False
            jax.profiler.stop_trace()
