"""Command lines in, plain configs out, every mistake told in one line."""

import difflib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from moe.config import ConfigError

_KINDS = {
    'invalid literal for int': 'an int',
    'could not convert string to float': 'a float',
    'Non-boolean argument': 'true or false',
    'as a ConfigDict': 'a section, as {name: value}',
}


def define_config(
    values: flags.FlagValues, argv: Sequence[str] | None = None
) -> None:
    """Defines the flag `--config`.

    Args:
      values: the flags of the program.
      argv: where overrides of the config are read; None for `sys.argv`.
    """
    config_flags.DEFINE_config_file(
        'config',
        None,
        'File with get_config(variant), as FILE[:VARIANT].',
        flag_values=values,
        sys_argv=None if argv is None else list(argv),
    )


def read_flags(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Parses the flags, and refuses what is none; `--help` lists them.

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
        raise _of_flag(str(error)) from None
    if stray:
        allowed = 'absent (a flag starts with --)'
        raise ConfigError('arguments', ' '.join(stray), allowed)


def read_config(
    values: flags.FlagValues, argv: Sequence[str], flag: str = 'config'
) -> dict[str, Any]:
    """Parses the flags, a config file with its overrides among them.

    Args:
      values: the flags of the program.
      argv: the command line, the program's name first.
      flag: the one that names the config file.

    Returns:
      The config as plain data.

    Raises:
      ConfigError: for a file that cannot be loaded, an override of a field it
        does not have, or anything `read_flags` refuses.
    """
    try:
        read_flags(values, argv)
        config = values[flag].value
        if config is None:
            raise ConfigError(f'--{flag}', None, 'given')
        return config.to_dict()
    except (AttributeError, KeyError) as error:
        # The config library's word for an override of what is not there.
        raise _unknown_field(flag, argv, str(error)) from None
    except OSError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        given = (a for a in argv if a.startswith(f'--{flag}='))
        name = next(given, '').partition('=')[2]
        allowed = f'a config file ({reason})'
        raise ConfigError(f'--{flag}', name, allowed) from None


def _of_flag(message: str) -> ConfigError:
    """Makes field, value and what is allowed of absl's message."""
    found = re.match(r'flag --([\w.]+)=(.*?): (.*)', message, re.DOTALL)
    if not found:
        return ConfigError('flags', message, 'as --help says')
    field, value, reason = found.groups()
    for words, kind in _KINDS.items():
        if words in reason:
            return ConfigError(field, value, kind)
    # Of a config file that raises, the last line of its traceback.
    last = reason.strip().splitlines()[-1]
    return ConfigError(field, value, last.removeprefix('ValueError: '))


def _unknown_field(flag: str, argv: Sequence[str], message: str) -> ConfigError:
    """Names the first override of a field that the config does not have."""
    known = _load(flag, argv)
    prefix = f'--{flag}.'
    for argument in argv:
        if not argument.startswith(prefix):
            continue
        path, _, value = argument[len(prefix) :].partition('=')
        section: Any = known
        for name in path.split('.'):
            fields = list(section) if isinstance(section, Mapping) else []
            if name not in fields:
                near = difflib.get_close_matches(name, fields, 1, cutoff=0)
                nearest = f' (nearest: {near[0]})' if near else ''
                allowed = f'absent: no such field{nearest}'
                return ConfigError(f'{flag}.{path}', value, allowed)
            section = section[name]
    return ConfigError(f'--{flag}', list(argv), message)


def _load(flag: str, argv: Sequence[str]) -> dict[str, Any]:
    """The config without overrides, which the flag does not give back."""
    file = next(a for a in argv if a.startswith(f'--{flag}='))
    path, *variant = file.partition('=')[2].split(':', 1)
    spec = importlib.util.spec_from_file_location('config', path)
    if spec is None or spec.loader is None:
        raise ConfigError(f'--{flag}', path, 'a Python file')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*variant).to_dict()
