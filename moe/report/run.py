"""Reads the files of a run's folder, without its model."""

import pathlib
import re
from typing import Any

from moe import files
from moe.config import ConfigError
from moe.metrics import Column, columns, read_spread
from moe.paths import check_local, read_json, reading

PARSED = 2**25  # bytes of metrics that are read at most, see `read_spread`


class Run:
    """The config and the metrics of a run, from its folder.

    Args:
      workdir: the folder of the run.

    Attributes:
      workdir: the folder.
      config: the config of `config.json`, plain data.
      metrics: the columns of `metrics.jsonl` by name, of a long run evenly
        spaced lines of it.
      events: the run's history, one dictionary an event; () of an older run.
      steps: number of the last logged step.

    Raises:
      ConfigError: if the folder holds no run that has logged a step.
    """

    def __init__(self, workdir: pathlib.Path):
        check_local(workdir)
        for name in ('config.json', 'metrics.jsonl'):
            if not (workdir / name).exists():
                allowed = f'the folder of a run (it has no {name})'
                raise ConfigError('workdir', str(workdir), allowed)
        self.workdir = workdir
        self.config = read_json(workdir / 'config.json')
        with reading(workdir / 'metrics.jsonl'):
            lines = read_spread(workdir / 'metrics.jsonl', PARSED)
            if not lines:
                allowed = 'the folder of a run that has logged a step'
                raise ConfigError('workdir', str(workdir), allowed)
            self.metrics: dict[str, Column] = columns(lines)
            self.steps = int(lines[-1]['step'])
        self.events = files.read_lines(workdir / 'history.jsonl')

    def last(self, name: str) -> float | None:
        """Returns the newest value of a scalar metric; None if it has none."""
        column = self.metrics.get(name)
        return None if column is None else float(column.last)

    def matches(self, pattern: str) -> dict[str, tuple[str, ...]]:
        """Returns the metrics whose whole name matches, in logged order.

        Args:
          pattern: a regular expression.

        Returns:
          The groups of each match, by the name of the metric.
        """
        found = {name: re.fullmatch(pattern, name) for name in self.metrics}
        return {name: match.groups() for name, match in found.items() if match}

    def fact(self, name: str) -> Any:
        """Returns the newest fact of that name in the history, None without."""
        found = (event[name] for event in self.events[::-1] if name in event)
        return next(found, None)

    def statistics(self, kind: str = 'moe') -> dict[str, dict[str, str]]:
        """Returns the metrics `moe/PLACE/NAME` of mixture layers or gates.

        Args:
          kind: how they begin: moe in training, eval/moe in evaluations.

        Returns:
          For each NAME the metrics by PLACE; layers in order.
        """
        found: dict[str, dict[str, str]] = {}
        pattern = f'{kind}/([^/]+)/(.+)'
        for metric, (place, name) in self.matches(pattern).items():
            found.setdefault(name, {})[place] = metric
        return {
            name: dict(sorted(places.items(), key=lambda item: _order(item[0])))
            for name, places in found.items()
        }


def _order(place: str) -> int:
    """Returns the number of a layer; 0 for gates, which keep their order."""
    number = re.fullmatch('layer_([0-9]+)', place)
    return int(number.group(1)) if number else 0
