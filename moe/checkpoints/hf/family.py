"""What is known of a family of published models."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from moe.checkpoints.hf.fields import (
    Entry,
    Model,
    Sections,
    read_fields,
    write_fields,
)
from moe.checkpoints.hf.tensors import Row
from moe.config import ConfigError


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of published models: two tables, and what is left out.

    Attributes:
      name: its `model_type`.
      architecture: its class in transformers, for `architectures`.
      defaults: values of fields where a `config.json` has none: those of the
        family's own config class.
      entries: the table of config fields.
      rows: the table of tensors.
      other_types: further `model_type`s of the same architecture.
      aliases: other names of fields, and the name that is read.
    """

    name: str
    architecture: str
    defaults: Mapping[str, Any]
    entries: Sequence[Entry]
    rows: Sequence[Row]
    other_types: tuple[str, ...] = ()
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def read_config(
        self, given: Mapping[str, Any], ignored: Sequence[str] = ()
    ) -> Sections:
        """Returns the section `model` of a `config.json`.

        Args:
          given: the `config.json`.
          ignored: fields that the user says may be ignored.

        Raises:
          ConfigError: for a field that is not known or cannot be honoured.
        """
        named = {n: v for n, v in given.items() if n not in ignored}
        for alias, name in self.aliases.items():
            if alias in named:
                named.setdefault(name, named.pop(alias))
        return read_fields(self.entries, {**self.defaults, **named})

    def write_config(self, model: Model) -> dict[str, Any]:
        """Returns the fields of a `config.json`.

        Args:
          model: the section `model`, with all its fields.
        """
        return {
            'architectures': [self.architecture],
            'model_type': self.name,
            **write_fields(self.entries, model),
        }


FAMILIES: dict[str, Family] = {}


def register(family: Family) -> Family:
    """Adds a family to `FAMILIES`, and returns it.

    Args:
      family: the family.
    """
    FAMILIES[family.name] = family
    return family


def family_of(given: Mapping[str, Any]) -> Family:
    """Returns the family of a `config.json`.

    Args:
      given: the `config.json`.

    Raises:
      ConfigError: for a `model_type` that is not known.
    """
    name = given.get('model_type')
    for family in FAMILIES.values():
        if name in (family.name, *family.other_types):
            return family
    known = [
        name
        for family in FAMILIES.values()
        for name in (family.name, *family.other_types)
    ]
    raise ConfigError('model_type', name, f'one of {", ".join(known)}')
