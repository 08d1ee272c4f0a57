"""Ways to put values of fields together, as `get_hyper(hyper)` is given them.

Each returns a list of dictionaries, one a trial, from dotted field to value.
The names are those of the hyper-parameter files of Scenic and V-MoE.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from moe.config import ConfigError

Changes = Mapping[str, Any]


def sweep(name: str, values: Iterable[Any]) -> list[Changes]:
    """One trial a value.

    Args:
      name: dotted name of the field.
      values: what it takes.

    >>> sweep('seed', range(2))
    [{'seed': 0}, {'seed': 1}]
    """
    return [{name: value} for value in values]


def fixed(name: str, value: Any, length: int = 1) -> list[Changes]:
    """The same value, `length` times.

    Args:
      name: dotted name of the field.
      value: what it takes.
      length: how many trials, for `zipit`.

    >>> fixed('steps', 9)
    [{'steps': 9}]
    """
    return [{name: value} for _ in range(length)]


def product(parts: Sequence[Iterable[Changes]]) -> list[Changes]:
    """Every combination of the parts' trials, the last part's fastest.

    Args:
      parts: lists of trials with no field in common.

    Raises:
      ConfigError: for a field that two parts give.

    >>> product([sweep('a', (1, 2)), fixed('b', 3)])
    [{'a': 1, 'b': 3}, {'a': 2, 'b': 3}]
    """
    return [_merged(trials) for trials in itertools.product(*parts)]


def zipit(parts: Sequence[Iterable[Changes]]) -> list[Changes]:
    """The parts' trials side by side.

    Args:
      parts: lists of as many trials each, with no field in common.

    Raises:
      ConfigError: for parts of different lengths, or a field that two give.

    >>> zipit([sweep('a', (1, 2)), sweep('b', (3, 4))])
    [{'a': 1, 'b': 3}, {'a': 2, 'b': 4}]
    """
    lists = [list(part) for part in parts]
    lengths = [len(part) for part in lists]
    if len(set(lengths)) > 1:
        raise ConfigError('hyper.zipit', lengths, 'parts of one length')
    return [_merged(trials) for trials in zip(*lists, strict=True)]


def chainit(parts: Iterable[Iterable[Changes]]) -> list[Changes]:
    """The parts' trials one after another.

    Args:
      parts: lists of trials.

    >>> chainit([sweep('a', (1,)), sweep('b', (2,))])
    [{'a': 1}, {'b': 2}]
    """
    return [trial for part in parts for trial in part]


def _merged(trials: Iterable[Changes]) -> Changes:
    result: dict[str, Any] = {}
    for trial in trials:
        for name, value in trial.items():
            if name in result:
                allowed = 'given once'
                raise ConfigError(f'hyper: {name}', value, allowed)
            result[name] = value
    return result
