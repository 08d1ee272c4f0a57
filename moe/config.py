"""Plain configs in, frozen and checked descriptions out.

A part of the system describes itself as a frozen dataclass whose annotations
say what is allowed (`Annotated[int, AtLeast(1)]`, `Literal[...]`, a nested
dataclass, `Annotated[Callable, OneOf(registry)]`). `parse` turns a plain
mapping into that dataclass, or raises `ConfigError`: one line with the field,
the value and what is allowed. Nothing here touches a device.
"""

import copy
import dataclasses
import difflib
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal


class ConfigError(ValueError):
    """A value of a config that cannot be used, told in one line.

    Args:
      field: dotted name of the field, relative to the part that raises.
      value: what was given.
      allowed: what would have been accepted, as the end of "must be ...".
    """

    def __init__(self, field: str, value: Any, allowed: str):
        self.field, self.value, self.allowed = field, value, allowed
        super().__init__(field, value, allowed)

    def __str__(self) -> str:
        value = repr(self.value)
        value = value if len(value) <= 80 else value[:77] + '...'
        line = f'{self.field} = {value}: must be {self.allowed}'
        return ' '.join(line.split())


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """Allows numbers `>= low`."""

    low: int | float

    def check(self, value: Any) -> str | None:
        """What is allowed, if the value is not; else None."""
        return None if value >= self.low else f'at least {self.low}'


@dataclasses.dataclass(frozen=True)
class Above:
    """Allows numbers `> low`."""

    low: int | float

    def check(self, value: Any) -> str | None:
        """What is allowed, if the value is not; else None."""
        return None if value > self.low else f'greater than {self.low}'


@dataclasses.dataclass(frozen=True)
class Within:
    """Allows numbers in the closed interval `[low, high]`."""

    low: int | float
    high: int | float

    def check(self, value: Any) -> str | None:
        """What is allowed, if the value is not; else None."""
        inside = self.low <= value <= self.high
        return None if inside else f'between {self.low} and {self.high}'


@dataclasses.dataclass(frozen=True)
class OneOf:
    """A section `{name: ..., **options}` that picks a function by name.

    The options are the function's keyword-only parameters that have a default;
    the parsed value is `functools.partial(function, **options)`.
    """

    registry: Mapping[str, Callable]


PositiveInt = Annotated[int, AtLeast(1)]
NaturalInt = Annotated[int, AtLeast(0)]
PositiveFloat = Annotated[float, Above(0.0)]
NaturalFloat = Annotated[float, AtLeast(0.0)]
Fraction = Annotated[float, Within(0.0, 1.0)]
Coefficients = Mapping[str, float]


def parse(schema: type, section: Any, path: str = 'config') -> Any:
    """Turns a plain section into its frozen dataclass.

    Args:
      schema: a frozen dataclass type; its annotations are what is allowed.
      section: a mapping with exactly the dataclass's fields.
      path: name of the section, for messages.

    Returns:
      An instance of `schema`.

    Raises:
      ConfigError: for an unknown or missing field, a wrong type, a value out of
        range, or whatever the dataclass's own `__post_init__` refuses.
    """
    hints = typing.get_type_hints(schema, include_extras=True)
    names = [f.name for f in dataclasses.fields(schema)]
    _check_names(section, names, names, path)
    values = {n: _value(hints[n], section[n], f'{path}.{n}') for n in names}
    try:
        return schema(**values)
    except ConfigError as error:
        field = f'{path}.{error.field}'
        raise ConfigError(field, error.value, error.allowed) from None


def options(function: Callable) -> dict[str, Any]:
    """The options of a function and their defaults.

    Args:
      function: anything with keyword-only parameters.

    Returns:
      Name to default of every keyword-only parameter that has one.

    >>> options(lambda x, *, k=2, renormalize=True: None)
    {'k': 2, 'renormalize': True}
    """
    parameters = inspect.signature(function).parameters.values()
    return {
        p.name: p.default
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.default is not p.empty
    }


def changed(plain: Mapping, changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a plain config with changes by dotted name.

    Args:
      plain: the config.
      changes: `a.b` names the field b of the section a, new fields included.

    >>> changed({'a': {'b': 1, 'c': 2}}, {'a.b': 3})
    {'a': {'b': 3, 'c': 2}}
    """
    result = copy.deepcopy(dict(plain))
    for name, value in changes.items():
        *sections, field = name.split('.')
        section = result
        for part in sections:
            section = section[part]
        section[field] = copy.deepcopy(value)
    return result


def differences(
    old: Mapping, new: Mapping, path: str = 'config'
) -> Iterator[str]:
    """Yields one line for every field in which two plain configs differ."""
    for name in sorted(set(old) | set(new)):
        a, b = old.get(name, '(absent)'), new.get(name, '(absent)')
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from differences(a, b, f'{path}.{name}')
        elif _plain(a) != _plain(b):
            yield f'{path}.{name}: {a!r} there, {b!r} now'


def _plain(value: Any) -> Any:
    """JSON has no tuples: compare them as lists, however deep."""
    if isinstance(value, Mapping):
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return value


def _check_names(
    section: Any, known: list[str], required: list[str], path: str
) -> None:
    if not isinstance(section, Mapping):
        what = 'a section with the fields ' + ', '.join(known)
        raise ConfigError(path, section, what)
    for name in section:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0)
            raise ConfigError(
                f'{path}.{name}',
                section[name],
                f'absent: no such field (nearest: {near[0] if near else "-"})',
            )
    missing = [name for name in required if name not in section]
    if missing:
        also = ', '.join(missing)
        raise ConfigError(path, dict(section), f'given the missing {also}')


def _value(hint: Any, value: Any, path: str) -> Any:
    """Checks one value against one annotation, recursively."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        constraint = args[1]
        if isinstance(constraint, OneOf):
            return _choice(constraint.registry, value, path)
        value = _value(args[0], value, path)
        problem = constraint.check(value)
        if problem:
            raise ConfigError(path, value, problem)
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        (inner,) = [a for a in args if a is not type(None)]
        try:
            return _value(inner, value, path)
        except ConfigError as error:
            allowed = error.allowed + ', or None'
            raise ConfigError(error.field, error.value, allowed) from None
    if origin is Literal:
        if value not in args:
            names = ', '.join(repr(a) for a in args)
            raise ConfigError(path, value, f'one of {names}')
        return value
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            raise ConfigError(path, value, 'a tuple')
        each = enumerate(value)
        return tuple(_value(args[0], v, f'{path}[{i}]') for i, v in each)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(path, value, 'a section of name: number')
        return {k: _value(args[1], v, f'{path}.{k}') for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return parse(typing.cast(type, hint), value, path)
    return _scalar(hint, value, path)


def _scalar(kind: type, value: Any, path: str) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is float and is_number:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ConfigError(path, value, 'a finite number')
        return number
    if type(value) is not kind:
        article = 'an' if kind is int else 'a'
        raise ConfigError(path, value, f'{article} {kind.__name__}')
    return value


def _choice(registry: Mapping[str, Callable], section: Any, path: str) -> Any:
    """Resolves `{name, **options}` to a partial of a registered function."""
    if not isinstance(section, Mapping):
        raise ConfigError(path, section, 'a section with a name and options')
    _check_names(section, [*section], ['name'], path)
    name = section['name']
    if not isinstance(name, str) or name not in registry:
        known = ', '.join(sorted(registry))
        raise ConfigError(f'{path}.name', name, f'one of {known}')
    function = registry[name]
    defaults = options(function)
    given = {k: v for k, v in section.items() if k != 'name'}
    _check_names(given, list(defaults), [], path)
    hints = typing.get_type_hints(function, include_extras=True)
    return functools.partial(
        function,
        **{k: _value(hints[k], v, f'{path}.{k}') for k, v in given.items()},
    )
