"""Registries: named functions, linen modules and dataclasses to choose from.

Whatever varies in an experiment is a section `{name: ..., **options}` of its
config. The name is looked up in a `Registry`; the options are the parameters
of the entry, with their defaults.
"""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from moe.config.errors import ConfigError

Entry = TypeVar('Entry', bound=Callable)

REQUIRED = dataclasses.MISSING


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a registry's entry.

    Attributes:
      hint: the annotation, which says what is allowed.
      make: a function that returns the default; `REQUIRED` without a default.
    """

    hint: Any
    make: Any

    @property
    def required(self) -> bool:
        """Whether the option has to be given."""
        return self.make is REQUIRED

    @property
    def default(self) -> Any:
        """Returns the default; `REQUIRED` if there is none."""
        return REQUIRED if self.required else self.make()


class Registry(Mapping[str, Callable]):
    """Named entries of one kind, such as all routers.

    >>> SCHEDULES = Registry('schedule')
    >>> @SCHEDULES.register('constant')
    ... def constant(step, *, rate: float = 0.1):
    ...     return rate
    >>> list(SCHEDULES), options(SCHEDULES['constant'])
    (['constant'], {'rate': 0.1})

    Args:
      kind: what the entries are, a noun for messages.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, Callable] = {}
        self._recognise: Callable[[str, str], str | None] | None = None

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Returns a decorator that adds a function or class under a name.

        Args:
          name: the name by which configs choose the entry.

        Raises:
          ValueError: from the decorator, if the name is taken by an entry
            of another module.
        """

        def add(entry: Entry) -> Entry:
            known = self._entries.get(name)
            if known is not None and _origin(known) != _origin(entry):
                raise ValueError(
                    f'{self.kind} {name!r} is registered twice: by '
                    f'{_origin(known)} and by {_origin(entry)}'
                )
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> Callable:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def recognises(self, function: Entry) -> Entry:
        """Decorates the function that tells which entry an option means.

        Args:
          function: takes the name and the text of an option that the entry in
            its place does not have; returns the name of another entry, or None.
        """
        self._recognise = function
        return function

    def recognised(self, option: str, text: str) -> str | None:
        """Returns the entry that an option means, None if that is not known.

        Args:
          option: name of the option.
          text: its value.
        """
        return self._recognise(option, text) if self._recognise else None

    def find(self, choice: Any, field: str) -> Any:
        """Returns the entry of a name; any other choice as it is.

        Args:
          choice: a name, or an entry, perhaps with options.
          field: what the choice is for, in messages.

        Raises:
          ConfigError: for a name that is not registered.
        """
        if not isinstance(choice, str):
            return choice
        if choice not in self._entries:
            raise ConfigError(field, choice, f'one of {", ".join(self)}')
        return self._entries[choice]

    def name_of(self, choice: Any) -> str:
        """Returns the name under which a parsed choice is registered.

        Args:
          choice: an entry, a partial of one, or an instance of one.

        Raises:
          KeyError: if it is not registered.
        """
        entry = entry_of(choice)
        for name, known in self._entries.items():
            if known is entry:
                return name
        raise KeyError(f'{entry!r} is no registered {self.kind}')


def _origin(entry: Callable) -> str:
    return f'{entry.__module__}.{entry.__qualname__}'


def entry_of(choice: Any) -> Any:
    """Returns the function or class behind a partial or an instance."""
    if isinstance(choice, functools.partial):
        return choice.func
    if isinstance(choice, type) or not dataclasses.is_dataclass(choice):
        return choice
    return type(choice)


def name_of(choice: Any) -> str:
    """Returns the Python name of a choice, for messages about it."""
    return entry_of(choice).__name__


@functools.cache
def option_table(
    entry: Any, supplied: frozenset[str] = frozenset()
) -> dict[str, Option]:
    """Returns the options of an entry, by name.

    Args:
      entry: a function, whose options are its keyword-only parameters; or a
        dataclass or linen module, whose options are its fields. Fields that
        plain data cannot give (annotated `Any` or `Callable`) are left out.
      supplied: names that the code which builds the entry fills in.
    """
    hints = typing.get_type_hints(entry, include_extras=True)
    if isinstance(entry, type) and dataclasses.is_dataclass(entry):
        fields = {f.name: f for f in dataclasses.fields(entry) if f.init}
        if 'parent' in fields:  # a linen module, of which linen sets these
            del fields['parent'], fields['name']
        found = {
            name: Option(hints[name], _maker(field))
            for name, field in fields.items()
            if is_plain(hints[name])
        }
    else:
        if isinstance(entry, type):
            hints = typing.get_type_hints(entry.__init__, include_extras=True)
        found = {
            p.name: Option(
                hints.get(p.name, Any),
                REQUIRED if p.default is p.empty else _constant(p.default),
            )
            for p in inspect.signature(entry).parameters.values()
            if p.kind is p.KEYWORD_ONLY
        }
    return {n: option for n, option in found.items() if n not in supplied}


def _maker(field: dataclasses.Field) -> Any:
    if field.default_factory is not REQUIRED:
        return field.default_factory
    return REQUIRED if field.default is REQUIRED else _constant(field.default)


def _constant(value: Any) -> Callable[[], Any]:
    return lambda: value


def is_plain(hint: Any) -> bool:
    """Whether plain data can give a field; Annotated says how."""
    origin = typing.get_origin(hint)
    return hint is not Any and hint is not Callable and origin is not Callable


def options(choice: Any) -> dict[str, Any]:
    """Returns the options of a choice with their values.

    Args:
      choice: an entry of a registry, a partial of one, or an instance. Of an
        entry the values are the defaults; options without one are left out.

    >>> options(lambda x, *, k=2, renormalize=True: None)
    {'k': 2, 'renormalize': True}
    """
    entry = entry_of(choice)
    table = option_table(entry)
    if isinstance(choice, functools.partial):
        given = choice.keywords
    elif choice is entry:
        given = {}
    else:
        given = {name: getattr(choice, name) for name in table}
    values = {name: given.get(name, o.default) for name, o in table.items()}
    return {n: v for n, v in values.items() if v is not REQUIRED}
