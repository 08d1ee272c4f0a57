"""The workloads there are, and the configs of their runs."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from moe.command_line import load_config
from moe.config import ConfigError, Text, override, parse, to_plain
from moe.config.plugins import import_plugins, import_plugins_of_run
from moe.config.reference import reference
from moe.training.config import Config
from moe.training.folder import read_plain_config
from moe.workloads.lm.workload import LanguageConfig
from moe.workloads.multitask.workload import MultiTaskRun
from moe.workloads.vision.workload import VisionConfig

WORKLOADS: dict[str, type[Config]] = {
    'lm': LanguageConfig,
    'multitask': MultiTaskRun,
    'vision': VisionConfig,
}


def read_config(
    plain: Mapping[str, Any] | ConfigDict,
    overrides: Iterable[tuple[str, Any]] = (),
) -> Config:
    """Checks a plain config, of which fields may be absent.

    Imports its plugins first, so that what they register can be named.

    Args:
      plain: the config, or a ConfigDict; `workload` names the workload.
      overrides: dotted names below the config, and their values: `Text` of a
        command line, or data.

    Returns:
      The config with the defaults of what is absent.

    Raises:
      ConfigError: for anything that cannot be used.
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

    Raises:
      ConfigError: for a file that gives no config.
    """
    sources = [a.partition('=') for a in arguments]
    for flag, _, source in sources:
        if flag == '--config':
            plain = load_config(source)
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
      overrides: as in `read_config`.

    Raises:
      ConfigError: for a field or a workload that there is not.
    """
    given = dict(overrides)
    return override(schema_of(plain, given), plain, given.items())


def plain_of(config: Config) -> dict[str, Any]:
    """Returns a config as plain data, every field of it.

    Args:
      config: of a run, checked.
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
      ConfigError: for a workload that there is not.
    """
    name = (overrides or {}).get('workload', plain.get('workload'))
    if name not in WORKLOADS:
        known = ', '.join(repr(workload) for workload in WORKLOADS)
        if name is None and 'task' in plain:
            allowed = f'absent: the field is now workload, one of {known}'
            raise ConfigError('config.task', plain['task'], allowed)
        raise ConfigError('config.workload', name, f'one of {known}')
    return WORKLOADS[name]


def read_run(workdir: pathlib.Path, plugins: Sequence[str] = ()) -> Config:
    """The config that a run left in its folder.

    Args:
      workdir: the run's folder.
      plugins: plugins of the run that the user names again, and which are
        therefore imported; see `import_plugins_of_run`.

    Returns:
      The config.

    Raises:
      ConfigError: for a folder without one that can be read.
    """
    plain = read_plain_config(workdir)
    import_plugins_of_run(plain.get('plugins', ()), plugins, workdir)
    return parse(schema_of(plain), plain)


def _names(text: str) -> tuple[str, ...]:
    """The names in a flag, as a tuple or with commas between."""
    parts = text.strip('()').split(',')
    return tuple(p.strip().strip('\'"') for p in parts if p.strip())
