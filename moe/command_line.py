"""From command lines to plain configs and overrides; errors in one line."""

import difflib
import errno
import functools
import importlib.util
import io
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from moe import disk
from moe.config import ConfigError, Damaged, Text

_KINDS = {
    'invalid literal for int': 'an int',
    'could not convert string to float': 'a float',
    'Non-boolean argument': 'true or false',
    'as a ConfigDict': 'a section, as {name: value}',
}


# Errors of a path that a user gives.
_REFUSALS = (
    errno.EACCES,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)

Main = Callable[[list[str]], int]


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


def command(name: str) -> Callable[[Main], Main]:
    """Returns a decorator of a command's `main`, which tells mistakes.

    A mistake of the user becomes one line and exit code 2, a path that cannot
    be opened included; a full disk or a failing one becomes one line and exit
    code 1; damaged checkpoints, if no good one is left, one line and exit code
    3. A reader of the output that ends, as `head` does, ends the command
    without a word. Characters that the standard streams cannot encode are
    written as escapes.

    Args:
      name: name of the command, which begins the lines.
    """

    def decorate(main: Main) -> Main:
        @functools.wraps(main)
        def told(argv: list[str]) -> int:
            for stream in (sys.stdout, sys.stderr):
                if isinstance(stream, io.TextIOWrapper):
                    stream.reconfigure(errors='backslashreplace')
            try:
                with disk.told_once():
                    code = main(argv)
                sys.stdout.flush()
                return code
            except ConfigError as error:
                line, code = str(error), 2
            except KeyboardInterrupt:
                line, code = 'interrupted', 128 + signal.SIGINT
            except Damaged as error:
                line, code = str(error), 3
            except BrokenPipeError:
                # Who reads the output, as `head` does, has enough of it.
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                return 128 + signal.SIGPIPE
            except Exception as error:
                line, code = disk.failure(error) or '', 1
                if isinstance(error, OSError) and _is_refusal(error):
                    line, code = _told(error), 2
                elif not line:
                    raise
            print(f'{name}: {line}', file=sys.stderr)
            return code

        return told

    return decorate


def _is_refusal(error: OSError) -> bool:
    return error.errno in _REFUSALS and bool(error.filename)


def _told(error: OSError) -> str:
    """Returns an error of the operating system as one line."""
    path = '' if error.filename is None else f'{error.filename!r}: '
    return f'{path}{error.strerror}'


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
    for name in values:
        values[name].unparse()  # of an earlier call
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
    overrides = read_overrides(values, argv)
    source = values['config'].value
    if source is None:
        raise ConfigError('--config', None, 'given')
    return Given(source, load_config(source), overrides)


def read_overrides(
    values: flags.FlagValues, argv: Sequence[str]
) -> list[tuple[str, Text]]:
    """Parses the flags, among them overrides of fields of a config.

    Args:
      values: the flags of the program.
      argv: the command line, the program's name first.

    Returns:
      Dotted name below the config and text of every flag `--config.NAME=TEXT`,
      in order.

    Raises:
      ConfigError: for anything that `read_flags` refuses.
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
    return overrides


def _flag_error(message: str) -> ConfigError:
    """Returns a message of absl's flags as a ConfigError."""
    found = re.match(r'flag --([\w.]+)=(.*?): (.*)', message, re.DOTALL)
    if not found:
        return ConfigError('flags', message, 'as --help says')
    field, value, reason = found.groups()
    for words, kind in _KINDS.items():
        if words in reason:
            return ConfigError(field, value, kind)
    return ConfigError(field, value, reason)


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
    if not os.path.isfile(path):
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
    except (ConfigError, KeyboardInterrupt):
        raise
    except BaseException as error:
        what = f'{type(error).__name__}: {error}'
        if type(error) is ValueError:
            raise ConfigError('--config', source, str(error)) from None
        frames = traceback.extract_tb(error.__traceback__)
        if isinstance(error, SyntaxError):
            place = f'{error.filename or source}:{error.lineno or 1}'
        else:
            place = f'{frames[-1].filename}:{frames[-1].lineno}'
        allowed = f'a config file that runs ({place}: {what})'
        raise ConfigError('--config', source, allowed) from None
