"""Functions that define the trials of a sweep, for `get_hyper(hyper)`.

Each returns a list of dictionaries, one for each trial, from dotted field to
value.
The names are those of the hyper-parameter files of Scenic and V-MoE.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from moe.config import ConfigError

Changes = Mapping[str, Any]


def sweep(name: str, values: Iterable[Any]) -> list[Changes]:
    """Returns one trial for each value of a field.

    Args:
      name: dotted name of the field.
      values: values of the field.

    >>> sweep('seed', range(2))
    [{'seed': 0}, {'seed': 1}]
    """
    return [{name: value} for value in values]


def fixed(name: str, value: Any, length: int = 1) -> list[Changes]:
    """Returns trials with the same value of a field.

    Args:
      name: dotted name of the field.
      value: value of the field.
      length: number of trials, for `zipit`.

    >>> fixed('steps', 9)
    [{'steps': 9}]
    """
    return [{name: value} for _ in range(length)]


def product(parts: Sequence[Iterable[Changes]]) -> list[Changes]:
    """Returns all combinations of the parts' trials, the last part fastest.

    Args:
      parts: lists of trials with no field in common.

    Raises:
      ConfigError: for a field in two parts.

    >>> product([sweep('a', (1, 2)), fixed('b', 3)])
    [{'a': 1, 'b': 3}, {'a': 2, 'b': 3}]
    """
    return [_merged(trials) for trials in itertools.product(*parts)]


def zipit(parts: Sequence[Iterable[Changes]]) -> list[Changes]:
    """Combines the first trials of all parts, the second ones, and so on.

    Args:
      parts: lists of equally many trials, with no field in common.

    Raises:
      ConfigError: for parts of different lengths, or a field in two parts.

    >>> zipit([sweep('a', (1, 2)), sweep('b', (3, 4))])
    [{'a': 1, 'b': 3}, {'a': 2, 'b': 4}]
    """
    lists = [list(part) for part in parts]
    lengths = [len(part) for part in lists]
    if len(set(lengths)) > 1:
        raise ConfigError('hyper.zipit', lengths, 'parts of one length')
    return [_merged(trials) for trials in zip(*lists, strict=True)]


def chainit(parts: Iterable[Iterable[Changes]]) -> list[Changes]:
    """Concatenates the parts' trials.

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
