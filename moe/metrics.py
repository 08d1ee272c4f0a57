"""The metrics of a run: lines of JSON that are written, and read."""

import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from moe import files
from moe.sinks import Sink, TensorBoard

NAME = 'metrics.jsonl'


class Writer:
    """Writes metrics to every sink; only the first process writes.

    `metrics.jsonl` is the source of truth that reports read: one JSON object
    a line, each with its `step`.

    Args:
      workdir: the run's folder.
      start: step of the checkpoint that the run continues from; lines of later
        steps, logged before an interruption, are dropped.
      active: whether this process writes.
      more: a function that opens further sinks, called if it writes.

    Attributes:
      evaluated: whether the line of `start` has the metrics of an evaluation;
        False if this process does not write.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        start: int,
        active: bool = True,
        more: Callable[[], Sequence[Sink]] = tuple,
    ):
        self._active, self.evaluated = active, False
        if not active:
            return
        self._path = workdir / NAME
        lines: list[dict[str, Any]] = []
        if self._path.exists():
            lines = [m for m in read_metrics(self._path) if m['step'] <= start]
            self._rewrite(lines)
            last = lines[-1] if lines else {'step': None}
            self.evaluated = last['step'] == start and any(
                name.startswith('eval/') for name in last
            )
        events = TensorBoard(workdir / 'tensorboard', start, lines)
        self._sinks: list[Sink] = [events, *more()]

    def write_scalars(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes one step's metrics.

        Args:
          step: number of steps taken.
          metrics: name to float, or to a list of floats (one an expert).

        Raises:
          OSError: if they cannot be written.
        """
        if self._active:
            files.append_line(self._path, json.dumps({'step': step, **metrics}))
            self._send(step, metrics)

    def complete(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Adds metrics to the last line, that of a step logged before.

        Args:
          step: number of steps taken.
          metrics: as those of `write_scalars`.

        Raises:
          OSError: if they cannot be written.
        """
        if self._active:
            lines = read_metrics(self._path) if self._path.exists() else []
            if not lines or lines[-1]['step'] != step:
                lines.append({'step': step})
            lines[-1] |= metrics
            self._rewrite(lines)
            self._send(step, metrics)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Writes texts to the sinks, `metrics.jsonl` has none.

        Args:
          step: number of steps taken.
          texts: the texts by name.
        """
        if self._active:
            for sink in self._sinks:
                sink.add_texts(step, texts)

    def close(self) -> None:
        """Closes the files."""
        if self._active:
            for sink in self._sinks:
                sink.close()

    def _send(self, step: int, metrics: Mapping[str, Any]) -> None:
        for sink in self._sinks:
            sink.add_scalars(step, metrics)

    def _rewrite(self, lines: Iterable[Mapping[str, Any]]) -> None:
        text = ''.join(json.dumps(line) + '\n' for line in lines)
        files.write_text(self._path, text)


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
            lines = file.read(size - start).split(b'\n')
            for line in reversed(lines[1:] if start else lines):
                if (found := _parsed(line)) is not None:
                    return found
            if not start:
                return {}
            block *= 4


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """Reads the lines of `metrics.jsonl`; says which are broken, if any are.

    Args:
      path: path of the file.

    Returns:
      The whole lines. A last one without its end is being written.
    """
    *lines, rest = path.read_bytes().split(b'\n')
    found = [_parsed(line) for line in lines]
    broken = [str(i) for i, m in enumerate(found, start=1) if m is None]
    if broken:
        shown = ', '.join(broken[:5]) + (', ...' if broken[5:] else '')
        told = f'{path}: {len(broken)} broken line(s) left out: {shown}'
        print(told, file=sys.stderr, flush=True)
    found.append(_parsed(rest))
    return [metrics for metrics in found if metrics is not None]


def read_spread(path: pathlib.Path, at_most: int) -> list[dict[str, Any]]:
    """Reads lines of `metrics.jsonl` evenly, for pictures of a long run.

    Args:
      path: path of the file.
      at_most: bytes that are parsed, about, of lines with an evaluation and of
        others each; a shorter file is read whole.

    Returns:
      Lines with an evaluation and others, evenly spaced each, and always the
      first and the last one.
    """
    if path.stat().st_size <= at_most:
        return read_metrics(path)
    sizes = {True: 0, False: 0}
    with path.open('rb') as file:
        for line in file:
            sizes[b'"eval/' in line] += len(line)
    steps = {kind: -(-size // at_most) for kind, size in sizes.items()}
    seen, found = {True: 0, False: 0}, []
    with path.open('rb') as file:
        for line in file:
            kind = b'"eval/' in line
            if seen[kind] % steps[kind] == 0 and line.endswith(b'\n'):
                found.append(_parsed(line))
            seen[kind] += 1
    newest = newest_metrics(path)
    lines = [metrics for metrics in found if metrics is not None]
    if lines and newest['step'] > lines[-1]['step']:
        lines.append(newest)
    return lines


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Returns the metrics of a line; None if it is broken."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    if not isinstance(found, dict) or type(found.get('step')) is not int:
        return None
    kinds: set[type] = set()
    for value in found.values():
        kinds.update(map(type, value if isinstance(value, list) else [value]))
    return found if kinds <= {int, float} else None


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
