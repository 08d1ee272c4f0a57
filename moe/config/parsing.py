"""Parses plain data into a frozen, checked dataclass."""

import ast
import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from moe.config.constraints import Counted, InUnits, OneOf
from moe.config.errors import ConfigError
from moe.config.hints import alternatives, choice_of
from moe.config.names import unknown, unknown_option
from moe.config.plain import completed, named, short_form
from moe.config.registry import Option, is_plain, option_table

Schema = TypeVar('Schema')

_NUMBER = re.compile(r'[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?', re.ASCII)
_INTEGER = re.compile(r'[+-]?\d+', re.ASCII)
# What Python's reader of literals raises for text that is none.
_UNREADABLE = (
    ValueError,
    SyntaxError,
    TypeError,
    MemoryError,
    RecursionError,
)
_DIGITS = 100  # of an integer; Python reads no more than 4,300


class Text(str):
    """A value as a command line gives it, to be read by its field's type."""


def parse(schema: type[Schema], section: Any, path: str = 'config') -> Schema:
    """Turns a plain section into its frozen dataclass.

    Args:
      schema: a frozen dataclass; its annotations say what is allowed.
      section: a mapping; absent fields have their defaults.
        Values may be `Text`.
      path: dotted name of the section, for messages.

    Returns:
      An instance of `schema`.

    Raises:
      ConfigError: for an unknown field, one without a default that is not
        given, a wrong type, a value out of range, or whatever the dataclass's
        own `__post_init__` refuses.
    """
    table = option_table(typing.cast(Any, schema))
    allowed = f'a section with the fields {", ".join(table)}'
    section = _mapping(short_form(schema, section), path, allowed)
    values = _options(table, completed(schema, section), path)
    return _made(functools.partial(schema, **values), path)


def _made(make: functools.partial, path: str) -> Any:
    try:
        return make()
    except ConfigError as error:
        raise error.inside(path) from None


def _mapping(
    section: Any, path: str, what: str = 'a section of fields'
) -> Mapping[str, Any]:
    if isinstance(section, Text):
        section = _literal(section, path, 'a section, as {name: value}')
    if not isinstance(section, Mapping):
        raise ConfigError(path, section, what)
    return section


def _options(
    table: Mapping[str, Option], given: Mapping[str, Any], path: str
) -> dict[str, Any]:
    for name, value in given.items():
        if name not in table:
            raise unknown(f'{path}.{name}', value, table)
    missing = [
        name
        for name, option in table.items()
        if option.required and name not in given
    ]
    if missing:
        also = ', '.join(missing)
        raise ConfigError(path, dict(given), f'given the missing {also}')
    return {
        n: _value(table[n].hint, v, f'{path}.{n}') for n, v in given.items()
    }


def _value(hint: Any, value: Any, path: str) -> Any:
    """Checks one value against one annotation, recursively."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        constraint = args[1]
        if isinstance(constraint, OneOf):
            return _chosen(constraint, value, path)
        for more in args[2:]:
            if isinstance(more, InUnits):
                value = more.read(value)
        if not isinstance(value, Counted):
            value = _value(args[0], value, path)
        problem = constraint.check(value)
        if problem:
            raise ConfigError(path, value, problem)
        return value
    if origin in (typing.Union, types.UnionType):
        return _optional(hint, value, path)
    if origin is Literal:
        return _literal_of(args, value, path)
    if origin is tuple:
        if isinstance(value, Text):
            value = _items(args[0], value, path)
        if not isinstance(value, (tuple, list)):
            raise ConfigError(path, value, 'a tuple')
        each = enumerate(value)
        return tuple(_value(args[0], v, f'{path}[{i}]') for i, v in each)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        section = _mapping(value, path, 'a section of name: number')
        return {
            k: _value(args[1], named(args[1], k, v), f'{path}.{k}')
            for k, v in section.items()
        }
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return parse(hint, value, path)
    return _scalar(hint, value, path)


def _optional(hint: Any, value: Any, path: str) -> Any:
    """Parses a value that may be None, or of one of several types."""
    if value is None or (isinstance(value, Text) and value == 'None'):
        return None
    inner = alternatives(hint) or list(typing.get_args(hint))
    inner = [one for one in inner if is_plain(one)]
    problems: list[ConfigError] = []
    for one in inner:
        try:
            return _value(one, value, path)
        except ConfigError as error:
            problems.append(error)
    last = problems[-1]
    if type(None) not in typing.get_args(hint):
        allowed = ', or '.join(dict.fromkeys(e.allowed for e in problems))
        raise ConfigError(last.field, last.value, allowed)
    if last.field != path:
        raise last
    raise ConfigError(last.field, last.value, f'{last.allowed}, or None')


def _literal_of(allowed: tuple, value: Any, path: str) -> Any:
    if isinstance(value, Text):
        value = next((a for a in allowed if str(a) == value), str(value))
    # True is not 1, nor 1.0 the integer 1.
    if any(a == value and type(a) is type(value) for a in allowed):
        return value
    names = ', '.join(repr(a) for a in allowed)
    raise ConfigError(path, value, f'one of {names}')


def section_of(value: Any, path: str) -> Any:
    """Returns a section that is given as `Text`, as data; else the value.

    Args:
      value: plain data, or `Text` that begins with a brace.
      path: dotted name of the section, for messages.

    Raises:
      ConfigError: for text that is not a section.
    """
    if isinstance(value, Text) and value.startswith('{'):
        return _mapping(value, path)
    return value


def _items(hint: Any, text: str, path: str) -> Any:
    """Reads a tuple as Python writes it, or names with commas between."""
    try:
        return ast.literal_eval(text)
    except _UNREADABLE:
        if hint is not str and choice_of(hint) is None:
            raise ConfigError(path, str(text), 'a tuple') from None
        return [Text(part.strip()) for part in text.split(',')]


def _literal(value: str, path: str, allowed: str) -> Any:
    try:
        return ast.literal_eval(value)
    except _UNREADABLE:
        raise ConfigError(path, str(value), allowed) from None


def _scalar(kind: Any, value: Any, path: str) -> Any:
    if isinstance(value, Text):
        value = _read(kind, str(value))
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is float and is_number:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ConfigError(path, value, 'a finite number')
        return number
    if kind is Any:
        return value
    if type(value) is not kind:
        article = 'an' if kind is int else 'a'
        raise ConfigError(path, value, f'{article} {kind.__name__}')
    if kind is int and abs(value) >= 2**63:
        raise ConfigError(path, value, 'an int of 64 bits')
    return value


def _read(kind: Any, text: str) -> Any:
    """Reads text as a value of a type; returns it if that is impossible."""
    if kind is bool and text.lower() in ('true', 'false'):
        return text.lower() == 'true'
    if kind is int and _INTEGER.fullmatch(text):
        return int(text[:_DIGITS])
    if kind is float and _NUMBER.fullmatch(text):
        return float(text)
    return text


def _chosen(choice: OneOf, section: Any, path: str) -> Any:
    """Resolves `{name, **options}` to an entry of a registry."""
    registry = choice.registry
    section = section_of(section, path)
    if isinstance(section, str):
        section = {'name': str(section)}
    if not isinstance(section, Mapping):
        raise ConfigError(path, section, 'a section with a name and options')
    name = section.get('name')
    if not isinstance(name, str) or name not in registry:
        known = ', '.join(registry)
        raise ConfigError(f'{path}.name', name, f'one of {known}')
    entry = registry[name]
    table = option_table(entry, choice.supplied)
    given = {k: v for k, v in section.items() if k != 'name'}
    for option, value in given.items():
        if option not in table:
            raise unknown_option(registry, name, f'{path}.{option}', value)
    values = _options(table, given, path)
    make = functools.partial(entry, **values)
    if isinstance(entry, type) and _is_frozen(entry):
        return _made(make, path)
    return make


def _is_frozen(entry: type) -> bool:
    """Whether an entry is a frozen dataclass, which parsing instantiates."""
    parameters = getattr(entry, '__dataclass_params__', None)
    return parameters is not None and parameters.frozen
