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


SCHEDULES = config.Registry('schedule')
SCHEDULES.register('warm')(warm)
SCHEDULES.register('plain')(plain)


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
    assert parsed.schedule.keywords == {'rate': 0.25, 'steps': 3}


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
            'config.schedule.name = None: must be one of plain, warm',
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
            "config.schedule.rate = 1.0: must be absent: 'plain' has no such "
            'option (it is one of warm)',
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
        ('cold', 'config.schedule.name'),
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


def test_absent_fields_keep_their_defaults():
    @dataclasses.dataclass(frozen=True)
    class Run:
        steps: int
        inner: Inner = dataclasses.field(default_factory=lambda: Inner(2, 0, 1))
        schedule: Annotated[Callable, config.OneOf(SCHEDULES)] = warm

    found = parse(Run, {'steps': 3})
    assert (found.steps, found.inner) == (3, Inner(2, 0, 1))
    assert found.schedule.keywords == {'rate': 0.5, 'steps': 3}
    # A section without a name is of the default entry.
    found = parse(Run, {'steps': 3, 'schedule': {'rate': 2.0}})
    assert found.schedule.keywords == {'rate': 2.0, 'steps': 3}
    # The name alone is a section too.
    assert parse(Run, {'steps': 3, 'schedule': 'plain'}).schedule.func is plain
    with pytest.raises(ConfigError, match=r'given the missing steps$'):
        parse(Run, {})


# Text of a flag, by field, and what it is read as.
@pytest.mark.parametrize(
    ('field', 'text', 'value'),
    [
        ('name', '3', '3'),
        ('name', 'None', 'None'),
        ('flag', 'False', False),
        ('flag', 'true', True),
        ('count', '12', 12),
        ('rate', '1e-3', 1e-3),
        ('rate', '2', 2.0),
        ('kind', 'a', 'a'),
        ('widths', '(1, 2)', (1, 2)),
        ('widths', '1,2', (1, 2)),
        ('widths', '()', ()),
        ('weights', '{"z": 1}', {'z': 1.0}),
        ('limit', 'None', None),
        ('limit', '0.5', 0.5),
        ('inner', '{"width": 1, "low": 0, "high": 2}', Inner(1, 0.0, 2.0)),
    ],
)
def test_text_is_read_by_the_type_of_its_field(field, text, value):
    found = getattr(parse(Outer, {**SECTION, field: config.Text(text)}), field)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize('text', ['a.py,b', 'a.py, b', "('a.py', 'b')"])
def test_names_with_commas_between_are_a_tuple(text):
    @dataclasses.dataclass(frozen=True)
    class Named:
        names: tuple[str, ...]

    found = parse(Named, {'names': config.Text(text)})
    assert found.names == ('a.py', 'b')


@pytest.mark.parametrize(
    ('field', 'text', 'allowed'),
    [
        ('count', '1.0', 'an int'),
        ('count', '1_000', 'an int'),
        ('rate', '1_0', 'a float'),
        ('rate', 'nan', 'a float'),
        ('rate', '1e999', 'a finite number'),
        ('flag', '1', 'a bool'),
        ('widths', '3', 'a tuple'),
        ('widths', 'x', 'a tuple'),
        ('inner', 'x', 'a section'),
        ('inner', '[' * 9999, 'a section'),
        ('schedule', 'cold', 'one of plain, warm'),
        ('schedule', '{"rate": 1.0', 'a section'),
    ],
)
def test_text_that_cannot_be_read(field, text, allowed):
    with pytest.raises(ConfigError) as error:
        parse(Outer, {**SECTION, field: config.Text(text)})
    assert error.value.field.startswith(f'config.{field}')
    assert error.value.allowed.startswith(allowed)
