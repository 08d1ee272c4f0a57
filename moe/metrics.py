"""Where metrics go: JSON lines, TensorBoard, and the console."""

import contextlib
import json
import math
import os
import pathlib
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorboardX


class Writer:
    """Writes metrics to every sink; only the first process writes.

    `metrics.jsonl` is the source of truth that reports read: one JSON object
    a line, each with its `step`.

    Args:
      workdir: the run's folder.
      start: step of the checkpoint that the run continues from; lines of later
        steps, logged before an interruption, are dropped.
      active: whether this process writes.
    """

    def __init__(self, workdir: pathlib.Path, start: int, active: bool = True):
        self._active = active
        if not active:
            return
        path = workdir / 'metrics.jsonl'
        if path.exists():
            lines = [m for m in read_metrics(path) if m['step'] <= start]
            # Atomically: a process that is killed here leaves a whole file.
            rewritten = path.with_suffix('.new')
            rewritten.write_text(''.join(json.dumps(m) + '\n' for m in lines))
            rewritten.replace(path)
        self._lines = path.open('a', buffering=1)
        # Event files are named by the second: two would overwrite each other.
        suffix = f'.{os.getpid()}.{secrets.token_hex(4)}'
        self._events = tensorboardX.SummaryWriter(
            str(workdir / 'tensorboard'), filename_suffix=suffix
        )

    def write_scalars(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes one step's metrics.

        Args:
          step: number of steps taken.
          metrics: name to float, or to a list of floats (one an expert).
        """
        if not self._active:
            return
        self._lines.write(json.dumps({'step': step, **metrics}) + '\n')
        # A mounted bucket has what was synced; the rest dies with the machine.
        os.fsync(self._lines.fileno())
        for name, value in metrics.items():
            if isinstance(value, list) and np.all(np.isfinite(value)):
                self._events.add_histogram(name, np.asarray(value), step)
            # TensorBoard shows no others.
            elif not isinstance(value, list) and math.isfinite(value):
                self._events.add_scalar(name, value, step)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Writes texts to TensorBoard, verbatim.

        Args:
          step: number of steps taken.
          texts: the texts by name.
        """
        if self._active:
            for name, text in texts.items():
                self._events.add_text(name, f'```\n{text}\n```', step)

    def flush(self) -> None:
        """Flushes the files, so that other processes see what was written."""
        if self._active:
            self._lines.flush()
            self._events.flush()

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._active:
            self._lines.close()
            self._events.close()


def newest_metrics(path: pathlib.Path) -> dict[str, Any]:
    """Returns the last whole line of `metrics.jsonl`, reading from the end.

    Args:
      path: path of the file.

    Returns:
      The metrics; empty before the first.
    """
    with path.open('rb') as file:
        size = file.seek(0, os.SEEK_END)
        block = 2**16
        while True:
            start = max(0, size - block)
            file.seek(start)
            lines = file.read(size - start).splitlines()
            for line in reversed(lines[1:] if start else lines):
                with contextlib.suppress(ValueError):
                    return json.loads(line)
            if not start:
                return {}
            block *= 4


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """Reads all lines of `metrics.jsonl` but a last one that is not whole.

    Args:
      path: path of the file.
    """
    metrics = []
    for line in path.read_text().splitlines():
        try:
            metrics.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return metrics


class Column(NamedTuple):
    """One metric over a run.

    Attributes:
      steps: [N] int, the steps at which it was logged.
      values: [N] float64; [N, E] for a metric with one value an expert.
    """

    steps: np.ndarray
    values: np.ndarray

    @property
    def last(self) -> Any:
        """The newest value: a float, or [E]."""
        return self.values[-1]


def columns(lines: Iterable[Mapping[str, Any]]) -> dict[str, Column]:
    """Turns lines of `metrics.jsonl` into one column a metric.

    Args:
      lines: one dictionary a logged step, each with its `step`; a metric need
        not be in all of them.

    Returns:
      The columns by the name of the metric, in the order of first appearance.
    """
    found: dict[str, tuple[list[int], list[Any]]] = {}
    for line in lines:
        for name, value in line.items():
            if name != 'step':
                steps, values = found.setdefault(name, ([], []))
                steps.append(line['step'])
                values.append(value)
    return {
        name: Column(np.array(steps), np.array(values, float))
        for name, (steps, values) in found.items()
    }
