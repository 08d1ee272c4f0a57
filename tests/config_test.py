"""Plain configs in, checked descriptions or one-line errors out."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
import pytest

from moe import config
from moe.config import ConfigError, parse


def warm(value, *, rate: config.PositiveFloat = 0.5, steps: int = 3):
    return value * rate + steps


def plain(value):
    return value


SCHEDULES: dict[str, Callable] = {'warm': warm, 'plain': plain}


@dataclasses.dataclass(frozen=True)
class Inner:
    width: config.PositiveInt
    low: float
    high: float

    def __post_init__(self):
        if self.low > self.high:
            allowed = f'at most high ({self.high})'
            raise ConfigError('low', self.low, allowed)


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    flag: bool
    count: config.NaturalInt
    rate: config.NaturalFloat
    share: config.Fraction
    kind: Literal['a', 'b']
    widths: tuple[config.PositiveInt, ...]
    weights: config.Coefficients
    limit: config.PositiveFloat | None
    inner: Inner
    schedule: Annotated[Callable, config.OneOf(SCHEDULES)]


SECTION = {
    'name': 'x',
    'flag': True,
    'count': 0,
    'rate': 0.0,
    'share': 1.0,
    'kind': 'b',
    'widths': [3, 4],
    'weights': {'z': 0.5, 'balance': 1},
    'limit': None,
    'inner': {'width': 1, 'low': 0.0, 'high': 0.0},
    'schedule': {'name': 'warm', 'rate': 0.25},
}
INNER = SECTION['inner']


def test_parse():
    parsed = parse(Outer, SECTION)
    assert (parsed.name, parsed.flag, parsed.count) == ('x', True, 0)
    assert (parsed.rate, parsed.share, parsed.kind) == (0.0, 1.0, 'b')
    assert parsed.widths == (3, 4)
    assert parsed.weights == {'z': 0.5, 'balance': 1.0}
    assert parsed.limit is None
    assert parsed.inner == Inner(1, 0.0, 0.0)
    # Options not given keep their defaults: 8 * .25 + 3.
    assert parsed.schedule(8) == 5
    assert parsed.schedule.keywords == {'rate': 0.25}


def test_whole_numbers_become_floats_where_floats_are_wanted():
    changed = {**SECTION, 'rate': 2, 'limit': 3, 'weights': {'z': 1}}
    parsed = parse(Outer, changed)
    for value in (parsed.rate, parsed.limit, parsed.weights['z']):
        assert type(value) is float
    assert type(parse(Outer, {**SECTION, 'rate': np.float64(2)}).rate) is float


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        # Scalars of the wrong type,
        ({'name': 3}, 'config.name = 3: must be a str'),
        ({'flag': 1}, 'config.flag = 1: must be a bool'),
        ({'flag': None}, 'config.flag = None: must be a bool'),
        ({'count': True}, 'config.count = True: must be an int'),
        ({'count': 1.0}, 'config.count = 1.0: must be an int'),
        ({'count': '1'}, "config.count = '1': must be an int"),
        ({'rate': '1'}, "config.rate = '1': must be a float"),
        ({'rate': True}, 'config.rate = True: must be a float'),
        # not finite,
        ({'rate': float('nan')}, 'config.rate = nan: must be a finite number'),
        ({'rate': float('inf')}, 'config.rate = inf: must be a finite number'),
        # or out of range.
        ({'count': -1}, 'config.count = -1: must be at least 0'),
        ({'rate': -0.5}, 'config.rate = -0.5: must be at least 0.0'),
        ({'share': 1.5}, 'config.share = 1.5: must be between 0.0 and 1.0'),
        ({'share': -0.5}, 'config.share = -0.5: must be between 0.0 and 1.0'),
        (
            {'limit': 0},
            'config.limit = 0.0: must be greater than 0.0, or None',
        ),
        ({'limit': 'x'}, "config.limit = 'x': must be a float, or None"),
        ({'kind': 'c'}, "config.kind = 'c': must be one of 'a', 'b'"),
        # Tuples and mappings name the element.
        ({'widths': 3}, 'config.widths = 3: must be a tuple'),
        ({'widths': 'ab'}, "config.widths = 'ab': must be a tuple"),
        ({'widths': (1, 0)}, 'config.widths[1] = 0: must be at least 1'),
        (
            {'weights': 1},
            'config.weights = 1: must be a section of name: number',
        ),
        ({'weights': {'z': 'x'}}, "config.weights.z = 'x': must be a float"),
        # Sections inside sections name the whole path.
        (
            {'inner': None},
            'config.inner = None: must be a section with the fields width, '
            'low, high',
        ),
        (
            {'inner': {**INNER, 'width': 0}},
            'config.inner.width = 0: must be at least 1',
        ),
        (
            {'inner': {**INNER, 'low': 2.0}},
            'config.inner.low = 2.0: must be at most high (0.0)',
        ),
        (
            {'inner': {**INNER, 'widht': 5}},
            'config.inner.widht = 5: must be absent: no such field (nearest: '
            'width)',
        ),
        (
            {'inner': {'width': 1}},
            "config.inner = {'width': 1}: must be given the missing low, high",
        ),
        # Choices by name.
        (
            {'schedule': {'name': 'cold'}},
            "config.schedule.name = 'cold': must be one of plain, warm",
        ),
        (
            {'schedule': {'rate': 1.0}},
            "config.schedule = {'rate': 1.0}: must be given the missing name",
        ),
        (
            {'schedule': {'name': 'warm', 'rat': 1.0}},
            'config.schedule.rat = 1.0: must be absent: no such field '
            '(nearest: rate)',
        ),
        (
            {'schedule': {'name': 'warm', 'rate': 0.0}},
            'config.schedule.rate = 0.0: must be greater than 0.0',
        ),
        (
            {'schedule': {'name': 'warm', 'steps': 0.5}},
            'config.schedule.steps = 0.5: must be an int',
        ),
        (
            {'schedule': {'name': 'plain', 'rate': 1.0}},
            'config.schedule.rate = 1.0: must be absent: no such field '
            '(nearest: -)',
        ),
    ],
)
def test_refused_in_one_line(change, message):
    with pytest.raises(ConfigError) as error:
        parse(Outer, {**SECTION, **change})
    assert str(error.value) == message
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('schedule', 'field'),
    [
        (3, 'config.schedule'),
        (None, 'config.schedule'),
        ('warm', 'config.schedule'),
        ({'name': ['warm']}, 'config.schedule.name'),
        ({'name': {}}, 'config.schedule.name'),
        ({'name': None}, 'config.schedule.name'),
    ],
    ids=str,
)
def test_choice_that_is_none(schedule, field):
    with pytest.raises(ConfigError) as caught:
        parse(Outer, {**SECTION, 'schedule': schedule})
    assert caught.value.field == field
    assert '\n' not in str(caught.value)


def test_number_too_large_for_a_float():
    with pytest.raises(ConfigError) as caught:
        parse(Outer, {**SECTION, 'rate': 10**400})
    assert caught.value.field == 'config.rate'


def test_long_values_of_many_lines_are_cut_to_one():
    # 77 characters of the value, and dots.
    line = str(ConfigError('field', 'x' * 100, 'short'))
    assert line == "field = '" + 'x' * 76 + '...: must be short'
    line = str(ConfigError('field', np.zeros((2, 3)), 'a number'))
    assert (
        line == 'field = array([[0., 0., 0.], [0., 0., 0.]]): must be a number'
    )


def test_error_names_its_parts_and_the_given_path():
    with pytest.raises(ConfigError) as caught:
        parse(Inner, {**INNER, 'low': 9.0}, path='model.inner')
    error = caught.value
    assert isinstance(error, ValueError)
    assert (error.field, error.value) == ('model.inner.low', 9.0)
    assert error.allowed == 'at most high (0.0)'


def test_other_errors_of_a_dataclass_are_not_caught():
    @dataclasses.dataclass(frozen=True)
    class Broken:
        width: int

        def __post_init__(self):
            raise RuntimeError('no config error')

    with pytest.raises(RuntimeError, match='no config error'):
        parse(Broken, {'width': 1})


def test_options():
    def function(a, b=1, *, c, d=2, e=None):
        return a, b, c, d, e

    assert config.options(function) == {'d': 2, 'e': None}
    assert config.options(plain) == {}


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
