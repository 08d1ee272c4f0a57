"""Reads annotations of config fields: a choice, a section, or a value."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Annotated, Any

from moe.config.constraints import OneOf
from moe.config.registry import Option, option_table


def alternatives(hint: Any) -> list[Any]:
    """Returns the types of `X | Y | None` but None; [] of other hints."""
    args = typing.get_args(hint)
    if type(None) not in args:
        return []
    return [a for a in args if a is not type(None)]


def choice_of(hint: Any) -> OneOf | None:
    """Returns the registry that a field chooses from, None for others."""
    if typing.get_origin(hint) is Annotated:
        for constraint in typing.get_args(hint)[1:]:
            if isinstance(constraint, OneOf):
                return constraint
    found = [choice_of(inner) for inner in alternatives(hint)]
    return next((c for c in found if c is not None), None)


def dataclass_of(hint: Any) -> Any:
    """Returns the dataclass that a section is read into, None for others."""
    for inner in [hint, *alternatives(hint)]:
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            return inner
    return None


def is_mapping(hint: Any) -> bool:
    """Whether a field is a section of any names, such as `losses`."""
    origin = typing.get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def children(hint: Any, section: Any) -> dict[str, Option] | None:
    """Returns the fields of a section by name, without the name of a choice.

    Args:
      hint: the section's annotation.
      section: plain data; a choice needs its name.

    Returns:
      The fields; None for a value that is no section or an unknown choice.
    """
    choice, schema = choice_of(hint), dataclass_of(hint)
    if choice is not None:
        name = section.get('name') if isinstance(section, Mapping) else section
        if not isinstance(name, str) or name not in choice.registry:
            return None
        return option_table(choice.registry[name], choice.supplied)
    return None if schema is None else option_table(schema)
