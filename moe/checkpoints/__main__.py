"""`python -m moe.checkpoints list|verify|prune|best DIR`."""

import pathlib
import sys
from types import ModuleType

from moe.checkpoints import best, listing, prune, verify
from moe.command_line import command, read_flags
from moe.config import ConfigError
from moe.paths import check_local

# Each has FLAGS, and `run(workdir)`, which returns the exit code.
COMMANDS: dict[str, ModuleType] = {
    'list': listing,
    'verify': verify,
    'prune': prune,
    'best': best,
}


@command('moe.checkpoints')
def main(argv: list[str]) -> int:
    """Runs a subcommand on a run's folder; returns the exit code."""
    name, *rest = argv[1:] or ['--help']
    if name == '--help':
        print(f'usage: moe.checkpoints {"|".join(COMMANDS)} DIR [flags]')
        return 0
    if name not in COMMANDS:
        raise ConfigError('command', name, f'one of {", ".join(COMMANDS)}')
    folders = [a for a in rest if not a.startswith('-')]
    given = [a for a in rest if a.startswith('-')]
    read_flags(COMMANDS[name].FLAGS, [f'moe.checkpoints {name} DIR', *given])
    if len(folders) != 1:
        allowed = 'the folder of one run (a flag is --NAME=VALUE)'
        raise ConfigError('DIR', ' '.join(folders), allowed)
    workdir = pathlib.Path(folders[0])
    check_local(workdir, 'DIR')
    if not workdir.is_dir():
        raise ConfigError('DIR', folders[0], "a run's folder")
    return COMMANDS[name].run(workdir)


if __name__ == '__main__':
    sys.exit(main(sys.argv))
