"""Overrides of a config's fields by dotted name."""

from collections.abc import Iterable, Mapping
from typing import Any

from moe.config.errors import ConfigError
from moe.config.hints import children, choice_of, dataclass_of, is_mapping
from moe.config.names import unknown, unknown_option
from moe.config.parsing import section_of
from moe.config.plain import completed, to_plain
from moe.config.registry import REQUIRED, Registry, option_table


def override(
    schema: type, plain: Mapping[str, Any], values: Iterable[tuple[str, Any]]
) -> dict[str, Any]:
    """Returns a plain config with fields changed, and every field in it.

    The name of a section's entry is changed before its options. Options that
    had the old entry's defaults go with it. A registry may tell an entry by an
    option alone, see `Registry.recognises`.

    Args:
      schema: the config's frozen dataclass.
      plain: the config, which may leave fields at their defaults.
      values: dotted name below the config, and the value: `Text`, or data.

    Raises:
      ConfigError: for a name that the config does not have.
    """
    result = completed(schema, plain)
    values = _with_names(schema, result, dict(values)).items()
    order = lambda item: (item[0].count('.'), not item[0].endswith('.name'))
    for path, value in sorted(values, key=order):
        _set(schema, result, path, value)
    return result


def _with_names(
    schema: type, plain: Mapping[str, Any], values: dict[str, Any]
) -> dict[str, Any]:
    """Returns the values with names of entries that they mean without one."""
    names: dict[str, Any] = {}
    for path, value in values.items():
        *sections, option = path.split('.')
        name = '.'.join([*sections, 'name'])
        if name in values or '.'.join(sections) in values:
            continue
        hint, node = schema, plain
        for part in sections:
            known = children(hint, node)
            if known is None or part not in known:
                break
            hint, node = known[part].hint, node.get(part)  # type: ignore
            node = completed(hint, node) or {}
        else:
            choice, known = choice_of(hint), children(hint, node)
            if choice is not None and option not in (known or ()):
                found = choice.registry.recognised(option, str(value))
                names |= {} if found is None else {name: found}
    return {**values, **names}


def _set(schema: Any, plain: dict[str, Any], path: str, value: Any) -> None:
    *sections, field = path.split('.')
    hint, node, where = schema, plain, 'config'
    for part in sections:
        hint = _child(hint, node, part, value, where)
        section, where = node.get(part), f'{where}.{part}'
        if isinstance(section, str) or section is None:
            section = completed(hint, section) or {}
        if not isinstance(section, Mapping):
            raise ConfigError(
                f'config.{path}', value, f'absent: {where} is no section'
            )
        node[part] = node = dict(section)
    choice = choice_of(hint)
    if choice is not None and field == 'name':
        _rename(choice.registry, node, str(value))
    else:
        child = _child(hint, node, field, value, where)
        if choice_of(child) is not None or dataclass_of(child) is not None:
            value = section_of(value, f'{where}.{field}')
        node[field] = value


def _child(hint: Any, node: Mapping, name: str, value: Any, where: str) -> Any:
    """Returns the annotation of a section's field; refuses an unknown one."""
    if is_mapping(hint):
        return Any
    known = children(hint, node)
    if known is None or (name == 'name' and choice_of(hint) is not None):
        return Any  # parse says what is wrong with the section
    if name not in known:
        field, choice = f'{where}.{name}', choice_of(hint)
        if choice is not None:
            entry = str(node['name'])
            raise unknown_option(choice.registry, entry, field, value)
        raise unknown(field, value, known)
    return known[name].hint


def _rename(registry: Registry, node: dict[str, Any], name: str) -> None:
    """Chooses another entry; drops options at the old entry's defaults."""
    old = registry.get(str(node.get('name')))
    if old is not None and name in registry and name != node.get('name'):
        for option, known in option_table(old).items():
            if option not in node or known.default is REQUIRED:
                continue
            given = completed(known.hint, node[option])
            if given == to_plain(known.hint, known.default):
                del node[option]
    node['name'] = name
