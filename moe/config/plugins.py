"""Plugins: modules of the user's own, imported before a config is read.

A plugin registers routers, experts, data sources or anything else that has a
registry. `config.plugins` names it: a module, or a path that ends in `.py`.
"""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import pathlib
import sys
from collections.abc import Collection
from types import ModuleType
from typing import Any

from moe.config.errors import ConfigError

ENTRY_POINTS = 'moe.plugins'


def import_plugins(names: Any, field: str = 'config.plugins') -> None:
    """Imports plugins that the user names, in order.

    Args:
      names: a tuple of dotted modules and paths of files.
      field: the field or flag that names them, for messages.

    Raises:
      ConfigError: for a plugin that does not exist, or raises on import.
    """
    _check(names, field)
    for name in names:
        try:
            _import(name)
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:  # of the user's own code
            what = f'{type(error).__name__}: {error}'
            allowed = f'a module or .py file that can be imported ({what})'
            raise ConfigError(field, name, allowed) from None


def _check(names: Any, field: str) -> None:
    if not isinstance(names, (tuple, list)):
        raise ConfigError(field, names, 'a tuple of modules and files')
    for name in names:
        if not isinstance(name, str):
            raise ConfigError(field, name, 'the name of a module or a file')


def import_plugins_of_run(
    names: Any,
    named_again: Collection[str],
    workdir: pathlib.Path,
) -> None:
    """Imports the plugins that a run's own config names, if they are trusted.

    A run folder is data: it may come from somebody else. A plugin is imported
    if the user names it again, or if an installed distribution declares it
    under the entry point group `moe.plugins`.

    Args:
      names: plugins of the run's config.
      named_again: those that the user names on the command line.
      workdir: the run's folder, none of whose files is ever executed.

    Raises:
      ConfigError: for a plugin that is not trusted, or cannot be imported.
    """
    _check(names, 'config.plugins')
    declared = {
        entry.value.partition(':')[0]
        for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)
    }
    inside = workdir.resolve()
    for name in dict.fromkeys([*names, *named_again]):
        is_file = name.endswith('.py')
        if is_file and inside in pathlib.Path(name).resolve().parents:
            allowed = "outside of the run's folder, whose files are never run"
            raise ConfigError('config.plugins', name, allowed)
        if name not in named_again and name not in declared:
            allowed = (
                f"named again to be imported, as --plugins={name}: the run's "
                'folder alone does not make it trusted'
            )
            raise ConfigError('config.plugins', name, allowed)
        import_plugins((name,))


def _import(name: str) -> ModuleType:
    if not name.endswith('.py'):
        return importlib.import_module(name)
    path = pathlib.Path(name).resolve()
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    module_name = f'moe_plugin_{path.stem}_{digest}'
    if module_name in sys.modules:
        return sys.modules[module_name]
    if not path.is_file():
        raise ConfigError('config.plugins', name, 'a file that exists')
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module
