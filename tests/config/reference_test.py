"""The table of fields."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from moe.config import OneOf, PositiveInt
from moe.config.reference import fields, reference, type_of
from tests.config.overrides_test import ROUTERS, Run


@dataclasses.dataclass(frozen=True)
class Told:
    """A section.

    Attributes:
      width: of the layers,
        in units.
      limit: the limit; None for none.
    """

    width: PositiveInt = 3
    limit: float | None = None


def test_fields():
    first, second = fields(Told)
    assert first == (
        'config.width',
        'int >= 1',
        '3',
        'of the layers, in units.',
    )
    assert second == (
        'config.limit',
        'float, or None',
        'None',
        'the limit; None for none.',
    )


def test_options_of_every_choice():
    names = [row.name for row in fields(Run)]
    assert 'config.model.router(name=two).scale' in names
    assert 'config.model.shared.hidden' in names
    text = reference(Run)
    assert 'config.model.router = one  (one of one, two)' in text


def test_several_choices_and_sections():
    @dataclasses.dataclass(frozen=True)
    class Several:
        routers: tuple[Annotated[Any, OneOf(ROUTERS)], ...] = ()
        by_name: Mapping[str, Annotated[Any, OneOf(ROUTERS)]] = (
            dataclasses.field(default_factory=dict)
        )
        told: tuple[Told, ...] = ()

    rows = {row.name: row.type for row in fields(Several)}
    assert rows['config.routers'] == 'tuple of one of one, two'
    assert 'config.routers(name=two).scale' in rows
    assert rows['config.by_name'] == 'section of NAME: one of one, two'
    assert rows['config.told'] == 'tuple of sections'
    assert rows['config.told[].width'] == 'int >= 1'


def test_types_in_words():
    assert type_of(tuple[int, ...]) == 'tuple of int'
    assert type_of(dict[str, float]) == 'section of NAME: float'
