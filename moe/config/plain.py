"""Configs as plain data, as files hold them: completed, changed, compared."""

import copy
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from moe.config.hints import (
    alternatives,
    children,
    choice_of,
    dataclass_of,
    is_mapping,
)
from moe.config.registry import Option, options


def to_plain(hint: Any, value: Any) -> Any:
    """Returns a parsed config, or a part of one, as plain data.

    The inverse of `moe.config.parse`, with every field. Tuples become lists,
    as in JSON.

    Args:
      hint: the annotation of the part; the dataclass for a whole config.
      value: the parsed part.
    """
    choice = choice_of(hint)
    if value is None or isinstance(value, (str, int, float)):
        return value
    if choice is not None:
        section = {'name': choice.registry.name_of(value)}
        known, values = children(hint, section) or {}, options(value)
        for name, option in known.items():
            if name in values:
                section[name] = to_plain(option.hint, values[name])
        return section
    schema = dataclass_of(hint)
    if schema is not None:
        return {
            name: to_plain(option.hint, getattr(value, name))
            for name, option in (children(hint, None) or {}).items()
        }
    if isinstance(value, Mapping):
        inner = typing.get_args(hint)[1] if is_mapping(hint) else Any
        return {name: to_plain(inner, v) for name, v in value.items()}
    if isinstance(value, (tuple, list)):
        inner = (*typing.get_args(hint), Any)[0]
        return [to_plain(inner, v) for v in value]
    return value


def completed(hint: Any, value: Any) -> Any:
    """Returns plain data with the defaults of all absent fields.

    Args:
      hint: the annotation of the data; the dataclass for a whole config.
      value: plain data; unknown fields are kept, for `parse` to refuse. A
        section without a name chooses the field's default entry; with that
        entry's name it has the field's default options.
    """
    choice = choice_of(hint)
    none = value == 'None' and alternatives(hint)
    if choice and isinstance(value, str) and value[:1] != '{' and not none:
        value = {'name': str(value)}
    if is_mapping(hint) and isinstance(value, Mapping):
        inner = typing.get_args(hint)[1]
        return {
            k: completed(inner, named(inner, k, v)) for k, v in value.items()
        }
    value = short_form(dataclass_of(hint), value)
    known = children(hint, value)
    if known is None or not isinstance(value, Mapping):
        return value
    result = dict(value)
    for name, option in known.items():
        if name in result:
            given = _onto_default(option, result[name])
            result[name] = completed(option.hint, given)
        elif not option.required:
            result[name] = to_plain(option.hint, option.default)
    return result


def short_form(schema: Any, value: Any) -> Any:
    """Returns the section that the value of one field stands for, if it does.

    Args:
      schema: the section's dataclass, or None; its `SHORT` names the field.
      value: plain data.
    """
    field = getattr(schema, 'SHORT', None)
    given = isinstance(value, str) and value[:1] != '{' and value != 'None'
    return {field: value} if field and given else value


def _onto_default(option: Option, section: Any) -> Any:
    """Completes a choice's section by the options of the default entry."""
    if choice_of(option.hint) is None or not isinstance(section, Mapping):
        return section
    default = None if option.required else option.default
    if default is None:
        return section
    plain = to_plain(option.hint, default)
    if section.get('name', plain['name']) != plain['name']:
        return section
    return {**plain, **section}


def named(hint: Any, key: str, section: Any) -> Any:
    """Returns a choice of a section of any names, by default named its key.

    Args:
      hint: annotation of the values of the enclosing section.
      key: name of the choice in that section.
      section: plain data of the choice, which may name another entry.
    """
    if choice_of(hint) is None or not isinstance(section, Mapping):
        return section
    return {'name': key, **section}


def changed(plain: Mapping, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of a plain config with changes by dotted name.

    Args:
      plain: the config.
      changes: new values by dotted name: `a.b` is the field b of the section
        a, and need not exist.

    >>> changed({'a': {'b': 1, 'c': 2}}, {'a.b': 3})
    {'a': {'b': 3, 'c': 2}}
    """
    result = copy.deepcopy(dict(plain))
    for name, value in changes.items():
        *sections, field = name.split('.')
        section = result
        for part in sections:
            section = section.setdefault(part, {})
        section[field] = copy.deepcopy(value)
    return result


def differences(
    old: Mapping, new: Mapping, path: str = 'config'
) -> Iterator[str]:
    """Yields one line for every field in which two plain configs differ."""
    for name, a, b in different(old, new):
        yield f'{path}.{name}: {a!r} there, {b!r} now'


def different(
    old: Mapping, new: Mapping, path: str = ''
) -> Iterator[tuple[str, Any, Any]]:
    """Yields every field in which two plain configs differ, and its values."""
    for name in sorted(set(old) | set(new)):
        a, b = old.get(name, '(absent)'), new.get(name, '(absent)')
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from different(a, b, f'{path}{name}.')
        elif _lists(a) != _lists(b):
            yield f'{path}{name}', a, b


def _lists(value: Any) -> Any:
    """Returns a value with all tuples as lists, as JSON has them."""
    if isinstance(value, Mapping):
        return {name: _lists(v) for name, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_lists(v) for v in value]
    return value
