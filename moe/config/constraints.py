"""Constraints on the values of config fields, for their annotations."""

import dataclasses
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
        if isinstance(value, int) and value > LARGEST_INT:
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


PositiveInt = Annotated[int, AtLeast(1)]
NaturalInt = Annotated[int, AtLeast(0)]
# JAX's keys of seeds that differ by 2**32 are the same.
Seed = Annotated[int, Within(0, 2**32 - 1)]
PositiveFloat = Annotated[float, Above(0.0)]
NaturalFloat = Annotated[float, AtLeast(0.0)]
Fraction = Annotated[float, Within(0.0, 1.0)]
Coefficients = Mapping[str, float]
