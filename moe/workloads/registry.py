"""The workloads by name, and how their configs are read."""

import importlib
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from moe.command_line import load_config
from moe.config import ConfigError, Text, override, parse, to_plain
from moe.config.plugins import import_plugins, import_plugins_of_run
from moe.config.reference import reference
from moe.training.config import Config
from moe.training.folder import read_plain_config

# Name -> module and its config.
_CONFIGS = {
    'lm': ('moe.workloads.lm.workload', 'LanguageConfig'),
    'multitask': ('moe.workloads.multitask.workload', 'MultiTaskRun'),
    'vision': ('moe.workloads.vision.workload', 'VisionConfig'),
}


class _Workloads(Mapping[str, type[Config]]):
    """The config of each workload, imported when it is asked for."""

    def __getitem__(self, name: str) -> type[Config]:
        module, config = _CONFIGS[name]
        return getattr(importlib.import_module(module), config)

    def __iter__(self) -> Iterator[str]:
        return iter(_CONFIGS)

    def __len__(self) -> int:
        return len(_CONFIGS)


WORKLOADS = _Workloads()


def read_config(
    plain: Mapping[str, Any] | ConfigDict,
    overrides: Iterable[tuple[str, Any]] = (),
) -> Config:
    """Parses and checks a plain config, whose fields may be absent.

    Its plugins are imported first, so that it can name what they register.

    Args:
      plain: the config, or a ConfigDict; `workload` names the workload.
      overrides: dotted names below the config, and their values: `Text` of a
        command line, or data.

    Returns:
      The config, with defaults of absent fields.

    Raises:
      ConfigError: for the first field that cannot be used.
    """
    if isinstance(plain, ConfigDict):
        plain = plain.to_dict()
    given = dict(overrides)
    plugins = given.get('plugins', plain.get('plugins', ()))
    if isinstance(plugins, Text):
        plugins = _names(plugins)
    import_plugins(plugins)
    schema = schema_of(plain, given)
    return parse(schema, override(schema, plain, given.items()))


def fields_of(arguments: Sequence[str]) -> str:
    """Returns the fields of a config with types, defaults and meanings.

    Args:
      arguments: `--config=FILE[:VARIANT]` for the fields of that config's
        workload, with its plugins; nothing for those of all workloads.
        `--config.plugins=NAMES` adds other plugins.

    Raises:
      ConfigError: for a file that gives no config.
    """
    parts = (argument.partition('=') for argument in arguments)
    given = {flag: text for flag, _, text in parts}
    import_plugins(_names(given.get('--config.plugins', '')))
    if '--config' in given:
        plain = load_config(given['--config'])
        import_plugins(plain.get('plugins', ()))
        return reference(schema_of(plain))
    return '\n\n'.join(
        f'# workload = {name}\n\n{reference(schema)}'
        for name, schema in WORKLOADS.items()
    )


def complete(
    plain: Mapping[str, Any], overrides: Iterable[tuple[str, Any]]
) -> dict[str, Any]:
    """Returns a plain config with every field, its values not checked.

    Args:
      plain: the config.
      overrides: dotted names and values, see `read_config`.

    Raises:
      ConfigError: for an unknown field or workload.
    """
    given = dict(overrides)
    return override(schema_of(plain, given), plain, given.items())


def plain_of(config: Config) -> dict[str, Any]:
    """Returns a config as plain data, every field of it.

    Args:
      config: config of a run, checked.
    """
    return to_plain(type(config), config)


def schema_of(
    plain: Mapping[str, Any], overrides: Mapping[str, Any] | None = None
) -> type[Config]:
    """Returns the dataclass of a plain config's workload.

    Args:
      plain: the config.
      overrides: dotted names below the config, and their values.

    Raises:
      ConfigError: for an unknown workload.
    """
    name = (overrides or {}).get('workload', plain.get('workload'))
    if not isinstance(name, str) or name not in _CONFIGS:
        known = ', '.join(repr(workload) for workload in WORKLOADS)
        if name is None and 'task' in plain:
            allowed = f'absent: the field is now workload, one of {known}'
            raise ConfigError('config.task', plain['task'], allowed)
        raise ConfigError('config.workload', name, f'one of {known}')
    return WORKLOADS[name]


def read_run(workdir: pathlib.Path, plugins: Sequence[str] = ()) -> Config:
    """Reads the config of a run from its folder.

    Args:
      workdir: the run's folder.
      plugins: plugins of the run that the user trusts by naming them again,
        see `import_plugins_of_run`.

    Returns:
      The config.

    Raises:
      ConfigError: for a folder without a readable config.
    """
    plain = read_plain_config(workdir)
    import_plugins_of_run(plain.get('plugins', ()), plugins, workdir)
    return parse(schema_of(plain), plain)


def _names(text: str) -> tuple[str, ...]:
    """Reads the names in a flag: a tuple, or names with commas between."""
    parts = text.strip('()').split(',')
    return tuple(p.strip().strip('\'"') for p in parts if p.strip())
