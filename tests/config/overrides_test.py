"""Fields changed by dotted name."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar

import pytest

from moe.config import (
    ConfigError,
    OneOf,
    Registry,
    Text,
    override,
    parse,
)
from moe.config.registry import entry_of
from moe.workloads.lm.workload import LanguageConfig

ROUTERS = Registry('router')


@ROUTERS.register('one')
def one(*, k: int = 2, renormalize: bool = True):
    return k, renormalize


@ROUTERS.register('two')
def two(*, k: int = 3, scale: float = 1.0):
    return k, scale


@dataclasses.dataclass(frozen=True)
class Shared:
    hidden: int = 4


@dataclasses.dataclass(frozen=True)
class Model:
    width: int = 8
    router: Annotated[Callable, OneOf(ROUTERS)] = one
    shared: Shared | None = None
    losses: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Run:
    steps: int = 1
    model: Model = dataclasses.field(default_factory=Model)


@dataclasses.dataclass(frozen=True)
class Origin:
    """A section that the value of one field stands for."""

    SHORT: ClassVar[str] = 'run'

    run: str
    strict: bool = False


@dataclasses.dataclass(frozen=True)
class Started:
    origin: Origin | None = None


@pytest.mark.parametrize(
    ('changes', 'origin'),
    [
        ({}, None),
        ({'origin': Text('a/b')}, Origin('a/b')),
        ({'origin': 'a/b'}, Origin('a/b')),
        ({'origin': Text('None')}, None),
        ({'origin': Text("{'run': 'a'}")}, Origin('a')),
        (
            {'origin': Text('a'), 'origin.strict': Text('True')},
            Origin('a', True),
        ),
        ({'origin.run': Text('3')}, Origin('3')),
    ],
    ids=str,
)
def test_a_section_by_the_value_of_one_field(changes, origin):
    plain = override(Started, {}, changes.items())
    assert parse(Started, plain).origin == origin


def test_a_section_without_the_field_that_it_needs():
    plain = override(Started, {}, {'origin.strict': Text('True')}.items())
    with pytest.raises(ConfigError, match='given the missing run'):
        parse(Started, plain)


def read(plain, **changes):
    values = [(name.replace('__', '.'), v) for name, v in changes.items()]
    return parse(Run, override(Run, plain, values))


def test_fields_that_the_file_leaves_out():
    found = read({}, steps=Text('3'), model__width=Text('16'))
    assert (found.steps, found.model.width) == (3, 16)
    found = read({}, model__shared__hidden=Text('5'))
    assert found.model.shared == Shared(5)
    found = read({'model': {'shared': {}}}, model__shared=Text('None'))
    assert found.model.shared is None
    assert read({}, model__losses__z=0.5).model.losses == {'z': 0.5}


def test_another_entry_leaves_the_defaults_of_the_old_one():
    # Of one, k = 2 and renormalize are defaults: two has its own.
    plain = {'model': {'router': {'name': 'one', 'k': 2, 'renormalize': True}}}
    assert read(plain, model__router__name='two').model.router() == (3, 1.0)
    # The order of the flags does not matter.
    found = read(plain, model__router__scale=2.0, model__router__name='two')
    assert found.model.router() == (3, 2.0)
    # What was set stays if the new entry has it,
    plain = {'model': {'router': {'name': 'one', 'k': 7}}}
    assert read(plain, model__router__name='two').model.router() == (7, 1.0)
    # and is the reason if it has not.
    plain = {'model': {'router': {'name': 'one', 'renormalize': False}}}
    with pytest.raises(ConfigError) as error:
        read(plain, model__router__name='two')
    assert str(error.value) == (
        "config.model.router.renormalize = False: must be absent: 'two' has "
        'no such option (it is one of one)'
    )
    # A whole section replaces it, or the name alone.
    whole = Text('{"name": "two"}')
    assert read(plain, model__router=whole).model.router() == (3, 1.0)
    assert read(plain, model__router=Text('two')).model.router() == (3, 1.0)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        (
            'stepps',
            'config.stepps = 1: must be absent: no such field (nearest: steps)',
        ),
        (
            'steps.more',
            'config.steps.more = 1: must be absent: config.steps is no section',
        ),
        (
            'model.router.scale',
            'config.model.router.scale = 1: must be absent: '
            "'one' has no such option (it is one of two)",
        ),
        (
            'model.shared.hiden',
            'config.model.shared.hiden = 1: must be absent: '
            'no such field (nearest: hidden)',
        ),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(ConfigError) as error:
        override(Run, {}, [(name, 1)])
    assert str(error.value) == message


def test_a_section_and_its_field_stand_in_any_order():
    # The whole before its part, so that no flag undoes another unseen.
    section = ('optimizer', Text('{"name": "lion"}'))
    field = ('optimizer.learning_rate', Text('0.1'))
    for values in ([section, field], [field, section]):
        found = override(LanguageConfig, {}, values)['optimizer']
        assert (found['name'], found['learning_rate']) == ('lion', '0.1')


def test_the_config_itself_stays():
    plain = {'model': {'router': {'name': 'one', 'k': 7}}}
    override(Run, plain, [('model.router.k', 3), ('model.width', 2)])
    assert plain == {'model': {'router': {'name': 'one', 'k': 7}}}


@dataclasses.dataclass(frozen=True)
class Chooses:
    router: Annotated[Callable, OneOf(ROUTERS)] | None = None


@pytest.mark.parametrize('given', [{}, {'router': 'one'}, {'router': None}])
def test_a_choice_may_be_none(given):
    plain = override(Chooses, given, [('router', Text('None'))])
    assert parse(Chooses, plain).router is None
    plain = override(Chooses, given, [('router', Text('one'))])
    assert entry_of(parse(Chooses, plain).router) is one


SHAPES = Registry('shape')


@SHAPES.register('round')
def round_(*, radius: int = 1):
    return radius


@SHAPES.register('box')
def box(*, sides: str, depth: int = 1):
    return sides, depth


@SHAPES.recognises
def shape_of(option, text):
    return 'box' if option == 'sides' and 'x' in text else None


@dataclasses.dataclass(frozen=True)
class Shaped:
    shape: Annotated[Callable, OneOf(SHAPES)] = round_


@dataclasses.dataclass(frozen=True)
class Scene:
    shaped: Shaped = dataclasses.field(default_factory=Shaped)


def test_an_option_tells_its_entry():
    text = [('shaped.shape.depth', Text('3')), ('shaped.shape.sides', '2x2')]
    made = override(Scene, {}, text)['shaped']['shape']
    assert made == {'name': 'box', 'sides': '2x2', 'depth': '3'}


@pytest.mark.parametrize(
    'values',
    [
        [('shaped.shape.sides', '22')],  # which nothing tells
        [('shaped.shape.sides', '2x2'), ('shaped.shape.name', 'round')],
        [('shaped.none.sides', '2x2')],
    ],
)
def test_options_that_tell_nothing(values):
    with pytest.raises(ConfigError, match='must be absent'):
        override(Scene, {}, values)
