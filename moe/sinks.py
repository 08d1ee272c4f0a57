"""Where metrics go besides `metrics.jsonl`: TensorBoard, Weights & Biases."""

import contextlib
import dataclasses
import importlib
import math
import os
import pathlib
import secrets
import time
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from tensorboardX import event_file_writer, summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from moe import files
from moe.config import ConfigError
from moe.images import LoadHistory

# Edges of histograms, as TensorFlow has them: of any sizes, both signs.
_POWERS = 1e-12 * 1.1 ** np.arange(774)
_BINS = [*-_POWERS[::-1], 0.0, *_POWERS]


@runtime_checkable
class Sink(Protocol):
    """What takes the metrics of a run as they are logged."""

    def add_scalars(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Takes one step's metrics: floats, and lists of one an expert."""

    def add_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Takes texts by name."""

    def close(self) -> None:
        """Ends."""


class TensorBoard:
    """A file of TensorBoard's events, written as they come, by no thread.

    Lists are histograms, and the loads of the experts of a layer over time are
    images too, in which every expert has its row.

    Args:
      folder: the folder of all event files of the run, made if absent.
      start: step that the run continues from; TensorBoard then hides later
        ones of earlier files.
      earlier: the lines of metrics up to there.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        start: int,
        earlier: Iterable[Mapping[str, Any]] = (),
    ):
        folder.mkdir(exist_ok=True)
        # Event files are named by the second: two would overwrite each other.
        suffix = f'.{os.getpid()}.{secrets.token_hex(4)}'
        self._file = event_file_writer.EventsWriter(
            str(folder / 'events'), suffix
        )
        self._loads, self._step = LoadHistory(), start
        self._undrawn: set[str] = set()
        for line in earlier:
            self._loads.add(line)
        if start:
            begun = SessionLog(status=SessionLog.START)
            self._write(start + 1, session_log=begun)

    def add_scalars(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes the finite ones; TensorBoard shows no others."""
        found = []
        for name, value in metrics.items():
            if isinstance(value, list) and np.all(np.isfinite(value)):
                values = np.asarray(value, float)
                found.append(summary.histogram(name, values, _BINS))
            elif not isinstance(value, list) and math.isfinite(value):
                found.append(summary.scalar(name, value))
        due = self._loads.add(metrics)
        self._undrawn |= metrics.keys() & set(self._loads.names())
        self._step = step
        self._add(step, [*found, *self._pictures(due)])

    def add_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Writes texts, verbatim."""
        verbatim = {name: f'```\n{text}\n```' for name, text in texts.items()}
        self._add(step, [summary.text(n, text) for n, text in verbatim.items()])

    def _pictures(self, names: Iterable[str]) -> list[Any]:
        found = []
        for name in names:
            png, height, width = self._loads.picture(name)
            image = Summary.Image(
                height=height,
                width=width,
                colorspace=3,
                encoded_image_string=png,
            )
            value = Summary.Value(tag=f'{name}_over_time', image=image)
            found.append(Summary(value=[value]))
        self._undrawn -= set(names)
        return found

    def _add(self, step: int, summaries: Iterable[Any]) -> None:
        for each in summaries:
            self._write(step, summary=each)
        self._file.flush()

    def _write(self, step: int, **what: Any) -> None:
        self._file.write_event(Event(step=step, wall_time=time.time(), **what))

    def close(self) -> None:
        """Draws the loads up to the end; closes, even on a full disk."""
        with contextlib.suppress(OSError):
            self._add(self._step, self._pictures(sorted(self._undrawn)))
            self._file.close()


@dataclasses.dataclass(frozen=True)
class WandBConfig:
    """A run of Weights & Biases that has the metrics too.

    Attributes:
      project: name of the project; the run has the name of its folder.
      mode: online, or offline: `wandb sync` then sends what is in the folder.
    """

    project: str = 'moe'
    mode: Literal['online', 'offline'] = 'online'


def check_wandb(config: WandBConfig | None) -> None:
    """Refuses the section without the library.

    Args:
      config: the section; None for none.

    Raises:
      ConfigError: if `wandb` is not installed.
    """
    if config is None:
        return
    try:
        importlib.import_module('wandb')
    except ImportError:
        allowed = "None without the library: pip install 'moe[wandb]'"
        raise ConfigError('config.wandb', _told(config), allowed) from None


def _told(config: WandBConfig) -> str:
    return f'{config.project}, {config.mode}'


class WandB:
    """The run of Weights & Biases that belongs to a folder.

    A run that goes on has the same one: its id is in `wandb.id`.

    Args:
      config: the section.
      workdir: the run's folder.
      plain: the run's config, plain data.

    Raises:
      ConfigError: if it does not start, such as without a key.
    """

    def __init__(
        self,
        config: WandBConfig,
        workdir: pathlib.Path,
        plain: Mapping[str, Any],
    ):
        library: Any = importlib.import_module('wandb')
        path = workdir / 'wandb.id'
        if not path.exists():
            files.write_text(path, secrets.token_hex(8))
        try:
            self._run = library.init(
                project=config.project,
                name=workdir.resolve().name,
                id=path.read_text().strip(),
                resume='allow',
                dir=str(workdir),
                config=dict(plain),
                mode=config.mode,
            )
        except library.errors.Error as error:
            allowed = f'one by which wandb starts ({error})'
            raise ConfigError('config.wandb', _told(config), allowed) from None
        self._histogram = library.Histogram

    def add_scalars(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Sends metrics; lists as histograms."""
        self._run.log(
            {
                name: self._histogram(value)
                if isinstance(value, list)
                else value
                for name, value in metrics.items()
            },
            step=step,
        )

    def add_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Puts texts into the summary of the run."""
        del step
        self._run.summary.update(dict(texts))

    def close(self) -> None:
        """Waits until all is sent or written."""
        self._run.finish()
