"""Constraints on the values of config fields, for their annotations."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Annotated, Any

from moe.config.errors import ConfigError
from moe.config.registry import Registry

LARGEST_INT = 2**31 - 1  # of arrays of JAX


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """Allows numbers `>= low`, integers up to those that JAX's arrays hold."""

    low: int | float

    def __str__(self) -> str:
        return f'>= {self.low}'

    def check(self, value: Any) -> str | None:
        """Returns what is allowed if the value is not, else None."""
        large = isinstance(value, int) and value > LARGEST_INT
        if large and not isinstance(value, Counted):
            return f'at most {LARGEST_INT}'
        return None if value >= self.low else f'at least {self.low}'


@dataclasses.dataclass(frozen=True)
class Above:
    """Allows numbers `> low`."""

    low: int | float

    def __str__(self) -> str:
        return f'> {self.low}'

    def check(self, value: Any) -> str | None:
        """Returns what is allowed if the value is not, else None."""
        return None if value > self.low else f'greater than {self.low}'


@dataclasses.dataclass(frozen=True)
class Within:
    """Allows numbers in the closed interval `[low, high]`."""

    low: int | float
    high: int | float

    def __str__(self) -> str:
        return f'in [{self.low}, {self.high}]'

    def check(self, value: Any) -> str | None:
        """Returns what is allowed if the value is not, else None."""
        inside = self.low <= value <= self.high
        return None if inside else f'between {self.low} and {self.high}'


def check_unicode(field: str, text: str) -> None:
    """Refuses a text with bytes of a command line that are no UTF-8.

    Args:
      field: the field or flag that gives it.
      text: the text.

    Raises:
      ConfigError: if it cannot be encoded.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(field, text, 'a text in UTF-8') from None


@dataclasses.dataclass(frozen=True)
class OneOf:
    """A section `{name: ..., **options}` that chooses an entry of a registry.

    The options are those of `moe.config.options`. The parsed value is
    `functools.partial(entry, **options)` for a function or a linen module, and
    an instance for a frozen dataclass. The section of an entry whose options
    all keep their defaults may be the name alone.

    Attributes:
      registry: the entries by name.
      supplied: options that the code which builds the entry fills in, and
        which are therefore no fields of the config.
    """

    registry: Registry
    supplied: frozenset[str] = frozenset()


class Counted(int):
    """A number of tokens, or another unit, which a config turns into steps.

    Attributes:
      unit: the unit, a plural.
    """

    unit: str

    def __new__(cls, count: int, unit: str) -> 'Counted':
        """Makes the number of a unit."""
        made = super().__new__(cls, count)
        made.unit = unit
        return made

    def __repr__(self) -> str:
        return repr(f'{int(self)} {self.unit}')


@dataclasses.dataclass(frozen=True)
class InUnits:
    """Allows a number of steps as that of another unit, as '2e9 tokens'."""

    def __str__(self) -> str:
        return "or as '2e9 tokens'"

    def read(self, value: Any) -> Any:
        """Returns text of a number and a unit as `Counted`; else the value.

        Args:
          value: a value of a config, not yet checked.
        """
        found = _COUNTED.fullmatch(value) if isinstance(value, str) else None
        if not found:
            return value
        return Counted(round(float(found[1])), found[2])


_COUNTED = re.compile(r'(\d{1,15}(?:\.\d{1,15})?(?:[eE]\d{1,2})?) ([a-z]+)')
PositiveInt = Annotated[int, AtLeast(1)]
PositiveSteps = Annotated[int, AtLeast(1), InUnits()]
NaturalSteps = Annotated[int, AtLeast(0), InUnits()]
NaturalInt = Annotated[int, AtLeast(0)]
# JAX's keys of seeds that differ by 2**32 are the same.
Seed = Annotated[int, Within(0, 2**32 - 1)]
PositiveFloat = Annotated[float, Above(0.0)]
NaturalFloat = Annotated[float, AtLeast(0.0)]
Fraction = Annotated[float, Within(0.0, 1.0)]
Coefficients = Mapping[str, float]
