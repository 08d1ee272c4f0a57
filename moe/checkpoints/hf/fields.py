"""Tables of config fields: what `config.json` says, and what our config says.

An entry is read in both directions. Every field of a `config.json` has to be
in one of a family's entries: a field that is in none is refused.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from moe.config import ConfigError

Model = Mapping[str, Any]
Sections = dict[str, Any]


class Entry(NamedTuple):
    """Some fields of a `config.json`, and the same in the section `model`.

    Attributes:
      names: the fields that it reads.
      read: returns values by dotted name in `model`, of a `config.json`.
      write: returns fields of a `config.json`, of the section `model`.
    """

    names: tuple[str, ...]
    read: Callable[[Mapping[str, Any]], Sections]
    write: Callable[[Model], dict[str, Any]]


def nothing(_: Any) -> dict[str, Any]:
    """Returns {}: for entries that are of one direction."""
    return {}


def same(name: str, path: str) -> Entry:
    """Returns an entry whose value is the same in both configs.

    Args:
      name: the field in `config.json`.
      path: dotted name in `model`.
    """
    return Entry(
        (name,),
        lambda given: {path: given[name]},
        lambda model: {name: value_of(model, path)},
    )


def fixed(name: str, *values: Any) -> Entry:
    """Returns an entry of a field whose other values are not supported.

    Args:
      name: the field in `config.json`.
      *values: the values that mean what our model does; the first is written.
    """

    def read(given):
        value = given.get(name, values[0])
        if value not in values:
            allowed = ' or '.join(map(repr, values))
            raise ConfigError(name, value, f'{allowed} (others are not known)')
        return {}

    return Entry((name,), read, lambda _: {name: values[0]})


def unread(*names: str) -> Entry:
    """Returns an entry of fields that do not change what a model computes.

    Args:
      *names: the fields in `config.json`.
    """
    return Entry(names, nothing, nothing)


def constant(path: str, value: Any) -> Entry:
    """Returns an entry of what is always so in a family.

    Args:
      path: dotted name in `model`.
      value: its value.
    """
    return Entry((), lambda _: {path: value}, nothing)


def value_of(model: Model, path: str) -> Any:
    """Returns a value of nested sections; None below a section that is None.

    Args:
      model: the section.
      path: dotted name in it.
    """
    found: Any = model
    for part in path.split('.'):
        if not isinstance(found, Mapping):
            return None
        found = found.get(part)
    return found


def read_fields(entries: Iterable[Entry], given: Mapping[str, Any]) -> Sections:
    """Returns the section `model` of a `config.json`.

    Args:
      entries: the family's entries; values of later ones stand.
      given: the `config.json`, with the family's defaults.

    Raises:
      ConfigError: for a field that no entry has, or that cannot be honoured.
    """
    entries = list(entries)
    known = {name for entry in entries for name in entry.names}
    for name, value in given.items():
        if name not in known and value is not None:
            allowed = (
                'a field that is known, as it may change what the model '
                f'computes (--ignore={name} leaves it out)'
            )
            raise ConfigError(name, value, allowed)
    model: Sections = {}
    for entry in entries:
        for path, value in entry.read(given).items():
            _put(model, path, value)
    return model


def _put(model: Sections, path: str, value: Any) -> None:
    *sections, name = path.split('.')
    for section in sections:
        model = model.setdefault(section, {})
    model[name] = value


def write_fields(entries: Iterable[Entry], model: Model) -> dict[str, Any]:
    """Returns the fields of a `config.json`.

    Args:
      entries: the family's entries.
      model: the section `model`, with all its fields.
    """
    found: dict[str, Any] = {}
    for entry in entries:
        found |= entry.write(model)
    return found
