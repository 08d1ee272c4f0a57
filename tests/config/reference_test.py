"""The table of fields."""

import dataclasses

from moe.config import PositiveInt
from moe.config.reference import fields, reference, type_of
from tests.config.overrides_test import Run


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


def test_types_in_words():
    assert type_of(tuple[int, ...]) == 'tuple of int'
    assert type_of(dict[str, float]) == 'section of NAME: float'
