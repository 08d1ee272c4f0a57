"""From command lines to plain configs and overrides; errors in one line."""

import difflib
import importlib.util
import pathlib
import re
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from moe.config import ConfigError, Text

_KINDS = {
    'invalid literal for int': 'an int',
    'could not convert string to float': 'a float',
    'Non-boolean argument': 'true or false',
    'as a ConfigDict': 'a section, as {name: value}',
}


class Given(NamedTuple):
    """A config as a command line gives it, not yet checked.

    Attributes:
      source: FILE[:VARIANT].
      plain: what the file's `get_config` returns, as plain data.
      overrides: dotted name below the config and text of every flag
        `--config.NAME=TEXT`, in order.
    """

    source: str
    plain: dict[str, Any]
    overrides: list[tuple[str, Text]]


def define_config(values: flags.FlagValues) -> None:
    """Defines the flag `--config`.

    Args:
      values: the flags of the program.
    """
    flags.DEFINE_string(
        'config',
        None,
        'FILE[:VARIANT], a Python file with get_config(variant). '
        '--config.NAME=VALUE changes a field; --help=config lists them.',
        flag_values=values,
    )


def define_run(values: flags.FlagValues) -> None:
    """Defines the flags of a trained run: `--workdir, --step, --plugins`.

    Args:
      values: the flags of the program.
    """
    flags.DEFINE_string(
        'workdir', None, 'Folder of the run.', flag_values=values
    )
    flags.DEFINE_integer(
        'step',
        None,
        'Step of the checkpoint; None is the newest.',
        flag_values=values,
    )
    define_plugins(values)


def define_plugins(values: flags.FlagValues) -> None:
    """Defines the flag `--plugins` of commands that read the folders of runs.

    Args:
      values: the flags of the program.
    """
    flags.DEFINE_list(
        'plugins',
        [],
        "The runs' plugins that may be imported: modules and files.",
        flag_values=values,
    )


def read_flags(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Parses the flags of a command, and answers `--help`.

    Args:
      values: the flags of the program.
      argv: the command line, the program's name first.

    Raises:
      ConfigError: for an unknown flag, a bad value, or a stray argument.
      SystemExit: after `--help`.
    """
    if '--help' in argv:
        print(f'usage: {argv[0]} [flags]\n{values.get_help()}')
        raise SystemExit(0)
    try:
        stray = values(list(argv))[1:]
    except flags.UnrecognizedFlagError as error:
        near = difflib.get_close_matches(error.flagname, list(values), 1, 0)
        allowed = f'absent: no such flag (nearest: --{near[0]})'
        value = error.flagvalue.partition('=')[2]
        raise ConfigError(f'--{error.flagname}', value, allowed) from None
    except flags.Error as error:
        raise _flag_error(str(error)) from None
    if stray:
        allowed = 'absent (a flag starts with --)'
        raise ConfigError('arguments', ' '.join(stray), allowed)


def read_config(values: flags.FlagValues, argv: Sequence[str]) -> Given:
    """Parses the flags, among them a config file and overrides of its fields.

    Args:
      values: the flags of the program.
      argv: the command line, the program's name first.

    Returns:
      The file's config and the overrides.

    Raises:
      ConfigError: for a file that gives no config, or anything that
        `read_flags` refuses.
    """
    prefix = '--config.'
    overrides = []
    for argument in argv:
        if argument.startswith(prefix):
            name, equals, value = argument[len(prefix) :].partition('=')
            if not equals or not all(name.split('.')):
                allowed = 'given as --config.NAME=VALUE'
                raise ConfigError(argument, value, allowed)
            overrides.append((name, Text(value)))
    read_flags(values, [a for a in argv if not a.startswith(prefix)])
    source = values['config'].value
    if source is None:
        raise ConfigError('--config', None, 'given')
    return Given(source, load_config(source), overrides)


def _flag_error(message: str) -> ConfigError:
    """Returns a message of absl's flags as a ConfigError."""
    found = re.match(r'flag --([\w.]+)=(.*?): (.*)', message, re.DOTALL)
    if not found:
        return ConfigError('flags', message, 'as --help says')
    field, value, reason = found.groups()
    for words, kind in _KINDS.items():
        if words in reason:
            return ConfigError(field, value, kind)
    last = reason.strip().splitlines()[-1]
    return ConfigError(field, value, last)


def load_config(source: str) -> dict[str, Any]:
    """Runs a config file and returns its config as plain data.

    Args:
      source: FILE[:VARIANT].

    Returns:
      What its `get_config(variant)` returns, as plain data.

    Raises:
      ConfigError: for a file that cannot be run, or returns no config.
    """
    path, *variant = source.split(':', 1)
    module = load_module(path)
    if not hasattr(module, 'get_config'):
        raise ConfigError('--config', source, 'a file with get_config')
    found = _run(lambda: module.get_config(*variant), source)
    plain = found.to_dict() if hasattr(found, 'to_dict') else found
    if not isinstance(plain, Mapping):
        allowed = 'a file whose get_config returns a ConfigDict'
        raise ConfigError('--config', source, f'{allowed} (not {found!r})')
    return dict(plain)


def load_module(path: str) -> Any:
    """Runs a Python file that a user names.

    Args:
      path: path of the file.

    Returns:
      The module.

    Raises:
      ConfigError: if the file does not exist, or raises an error.
    """
    if not pathlib.Path(path).is_file():
        allowed = 'a config file (No such file)'
        raise ConfigError('--config', path, allowed)
    spec = importlib.util.spec_from_file_location('config_file', path)
    if spec is None or spec.loader is None:
        raise ConfigError('--config', path, 'a Python file')
    module, loader = importlib.util.module_from_spec(spec), spec.loader
    _run(lambda: loader.exec_module(module), path)
    return module


def _run(call: Any, source: str) -> Any:
    """Calls the user's code; turns its exception into one line with place."""
    try:
        return call()
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        what = f'{type(error).__name__}: {error}'
        if type(error) is ValueError:
            raise ConfigError('--config', source, str(error)) from None
        frames = traceback.extract_tb(error.__traceback__)
        if isinstance(error, SyntaxError):
            place = f'{error.filename}:{error.lineno}'
        else:
            place = f'{frames[-1].filename}:{frames[-1].lineno}'
        allowed = f'a config file that runs ({place}: {what})'
        raise ConfigError('--config', source, allowed) from None
