"""Trains a model: `train.py --config=FILE[:VARIANT] --workdir=DIR`."""

import pathlib
import sys

from absl import flags
from ml_collections import config_flags

from moe import training
from moe.config import ConfigError, parse
from moe.training.host import keep_freed_memory

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'File with get_config(variant), as FILE[:VARIANT].'
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.')


def main(argv: list[str]) -> int:
    """Runs; returns the exit code: 2 for what the user can mend."""
    try:
        config, plain = read_config(argv)
        workdir = pathlib.Path(_WORKDIR.value)
        keep_freed_memory()
        complete = training.run(config, plain, workdir)
    except ConfigError as error:
        print(f'train.py: {error}', file=sys.stderr)
        return 2
    except training.Diverged as error:
        print(f'train.py: {error}', file=sys.stderr)
        return 1
    if not complete:
        return 0
    from moe import report  # not before: it needs matplotlib

    print(report.summary(workdir))
    print(f'report: {report.write(workdir)}')
    return 0


def read_config(argv: list[str]) -> tuple[training.Config, dict]:
    """Flags to a checked config, and the same as plain data.

    Raises:
      ConfigError: one line, for anything wrong with the flags or the config.
    """
    given = ' '.join(argv[1:])
    try:
        stray = flags.FLAGS(argv)[1:]
    except (OSError, ImportError) as error:
        allowed = f'a config file ({error})'
        raise ConfigError('--config', given, allowed) from None
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as e:
        allowed = 'valid: ' + ' '.join(str(e).split())
        raise ConfigError('flags', given, allowed) from None
    if stray:
        allowed = 'absent (a flag starts with --)'
        raise ConfigError('arguments', ' '.join(stray), allowed)
    for flag in (_CONFIG, _WORKDIR):
        if not flag.value:
            raise ConfigError(f'--{flag.name}', flag.value, 'given')
    plain = _CONFIG.value.to_dict()
    return parse(training.Config, plain), plain


if __name__ == '__main__':
    sys.exit(main(sys.argv))
