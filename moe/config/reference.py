"""The reference of a config's fields: type, default and meaning."""

import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from moe.config.constraints import OneOf
from moe.config.hints import choice_of, dataclass_of
from moe.config.plain import to_plain
from moe.config.registry import Option, option_table


class Row(NamedTuple):
    """One field of a config, as the reference shows it.

    Attributes:
      name: dotted name; options of a choice stand behind `name=ENTRY`, fields
        of each of several sections behind `[]`.
      type: the allowed values, in words.
      default: the default as a flag gives it; '' if there is none.
      meaning: its description in the docstring of its dataclass or function.
    """

    name: str
    type: str
    default: str
    meaning: str


def reference(schema: type) -> str:
    """Returns the fields of a config as text, a few lines each.

    Args:
      schema: the config's dataclass.
    """
    lines = []
    for row in fields(schema):
        default = f' = {row.default}' if row.default else ''
        lines.append(f'{row.name}{default}  ({row.type})')
        if row.meaning:
            lines.append(f'    {row.meaning}')
    return '\n'.join(lines)


def fields(schema: Any, path: str = 'config') -> Iterator[Row]:
    """Yields every field of a config, the options of all choices included.

    Args:
      schema: a dataclass, or an entry of a registry.
      path: dotted name of the section.
    """
    yield from _rows(schema, option_table(schema), path, frozenset())


def _rows(
    owner: Any, table: dict[str, Option], path: str, seen: frozenset
) -> Iterator[Row]:
    meanings = _meanings(owner)
    for name, option in table.items():
        where, meaning = f'{path}.{name}', meanings.get(name, '')
        many, hint = _each(option.hint)
        choice, inner = choice_of(hint), dataclass_of(hint)
        if choice is not None:
            names = many + 'one of ' + ', '.join(choice.registry)
            yield Row(where, names, _default(option), meaning)
            if choice.registry in seen:
                continue  # a choice inside itself
            for entry in choice.registry:
                yield from _rows(
                    choice.registry[entry],
                    option_table(choice.registry[entry], choice.supplied),
                    f'{where}(name={entry})',
                    seen | {choice.registry},
                )
        elif inner is not None and many:
            yield Row(where, f'{many}sections', _default(option), meaning)
            yield from _rows(inner, option_table(inner), f'{where}[]', seen)
        elif inner is not None:
            none = option.default is None
            kind = 'a section, or None' if none else 'a section'
            yield Row(where, kind, 'None' if none else '', meaning)
            yield from _rows(inner, option_table(inner), where, seen)
        else:
            yield Row(where, type_of(option.hint), _default(option), meaning)


def _each(hint: Any) -> tuple[str, Any]:
    """Returns 'tuple of ' or the like, and what it is of; '' for others."""
    args = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is tuple:
        return 'tuple of ', args[0]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return 'section of NAME: ', args[1]
    return '', hint


def _default(option: Option) -> str:
    if option.required:
        return ''
    plain = to_plain(option.hint, option.default)
    if isinstance(plain, dict) and set(plain) >= {'name'}:
        return str(plain['name'])
    return repr(plain) if plain == '' else str(plain)


def type_of(hint: Any) -> str:
    """Returns the values that an annotation allows, in words.

    >>> type_of(Annotated[int, 'x'] | None), type_of(Literal['a', 'b'])
    ('int, or None', 'a, b')
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        limits = [str(c) for c in args[1:] if not isinstance(c, (OneOf, str))]
        return ' '.join([type_of(args[0]), *limits])
    if origin is Literal:
        return ', '.join(str(a) for a in args)
    if origin in (typing.Union, types.UnionType):
        inner = [type_of(a) for a in args if a is not type(None)]
        also = ['None'] if type(None) in args else []
        return ', or '.join([*inner, *also])
    if origin is tuple:
        return f'tuple of {type_of(args[0])}'
    if origin is not None and args:
        return f'section of NAME: {type_of(args[-1])}'
    return getattr(hint, '__name__', str(hint))


def _meanings(owner: Any) -> dict[str, str]:
    """Reads the descriptions of fields from docstrings, bases included."""
    found: dict[str, str] = {}
    bases = reversed(owner.__mro__) if isinstance(owner, type) else [owner]
    for one in bases:
        text = inspect.cleandoc(one.__doc__ or '')
        block = re.search(
            r'^(?:Attributes|Args):\n((?:^ .*\n?|^\n)+)', text, re.MULTILINE
        )
        if not block:
            continue
        for entry in re.split(r'^  (?=\w)', block[1], flags=re.MULTILINE)[1:]:
            name, _, meaning = entry.partition(':')
            found[name] = ' '.join(meaning.split())
    return found
