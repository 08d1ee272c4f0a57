"""Plain data of configs, and how two of them differ."""

import dataclasses
from collections.abc import Callable
from typing import Annotated

from moe import config
from moe.config.plain import completed
from tests.config.parsing_test import SCHEDULES, SECTION, Inner, Outer, warm


def test_differences():
    # Tuples and lists are alike; a changed section tells its fields.
    old = {'a': 1, 'b': (1, 2), 'c': {'d': 1, 'e': 2}, 'f': 0, 'g': {'h': 1}}
    new = {'a': 1, 'b': [1, 2], 'c': {'d': 1, 'e': 3}, 'g': 5, 'i': 'x'}
    assert list(config.differences(old, new)) == [
        'config.c.e: 2 there, 3 now',
        "config.f: 0 there, '(absent)' now",
        "config.g: {'h': 1} there, 5 now",
        "config.i: '(absent)' there, 'x' now",
    ]
    assert list(config.differences(old, old)) == []
    # However deep, as in a table's labels.
    old, new = {'a': ({'b': ('c',)},)}, {'a': [{'b': ['c']}]}
    assert list(config.differences(old, new)) == []
    assert list(config.differences({'a': 1}, {'a': 2}, 'run')) == [
        'run.a: 1 there, 2 now'
    ]


def test_to_plain_is_the_inverse_of_parse():
    parsed = config.parse(Outer, SECTION)
    found = config.to_plain(Outer, parsed)
    assert found == {
        **SECTION,
        'widths': [3, 4],
        'schedule': {'name': 'warm', 'rate': 0.25, 'steps': 3},
    }
    again = config.parse(Outer, found)
    assert config.to_plain(Outer, again) == found


def test_completed():
    @dataclasses.dataclass(frozen=True)
    class Run:
        inner: Inner = dataclasses.field(default_factory=lambda: Inner(2, 0, 1))
        schedule: Annotated[Callable, config.OneOf(SCHEDULES)] = warm

    schedule = {'name': 'warm', 'rate': 0.5, 'steps': 3}
    inner = {'width': 2, 'low': 0, 'high': 1}
    assert completed(Run, {}) == {'inner': inner, 'schedule': schedule}
    found = completed(Run, {'schedule': {'steps': 5}, 'other': 1})
    assert found['schedule'] == {**schedule, 'steps': 5}
    assert found['other'] == 1  # for `parse` to refuse


def test_changed():
    found = config.changed({'a': {'b': 1}}, {'a.c.d': 2, 'e': 3})
    assert found == {'a': {'b': 1, 'c': {'d': 2}}, 'e': 3}
