"""`python -m moe.checkpoints COMMAND DIR`: looks at runs, and makes others."""

import pathlib
import sys
from types import ModuleType

from moe.checkpoints import (
    best,
    exporting,
    importing,
    listing,
    merge_experts,
    permute_experts,
    prune,
    prune_experts,
    split_experts,
    upcycle,
    verify,
)
from moe.command_line import command, read_flags, read_overrides
from moe.config import ConfigError
from moe.paths import check_local

# Each has FLAGS, and `run(workdir)`, which returns the exit code; those with
# OVERRIDES have `run(workdir, overrides)`, and take `--config.NAME=VALUE`.
# `folder_of` returns the folder of what is given as DIR, where it is another.
COMMANDS: dict[str, ModuleType] = {
    'list': listing,
    'verify': verify,
    'prune': prune,
    'best': best,
    'upcycle': upcycle,
    'import': importing,
    'export': exporting,
    'prune_experts': prune_experts,
    'merge_experts': merge_experts,
    'permute_experts': permute_experts,
    'split_experts': split_experts,
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
    module = COMMANDS[name]
    given = [f'moe.checkpoints {name} DIR', *given]
    takes = hasattr(module, 'OVERRIDES')
    overrides = read_overrides(module.FLAGS, given) if takes else []
    if not takes:
        read_flags(module.FLAGS, given)
    if len(folders) != 1:
        allowed = 'the folder of one run (a flag is --NAME=VALUE)'
        raise ConfigError('DIR', ' '.join(folders), allowed)
    workdir = pathlib.Path(folders[0])
    check_local(workdir, 'DIR')
    if not getattr(module, 'folder_of', pathlib.Path)(workdir).is_dir():
        raise ConfigError('DIR', folders[0], "a run's folder")
    return module.run(workdir, overrides) if takes else module.run(workdir)


if __name__ == '__main__':
    sys.exit(main(sys.argv))
