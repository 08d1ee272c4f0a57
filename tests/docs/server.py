"""Commands of the pages, run or only read, behind one set of imports.

`tests.commands.run_all('tests.docs.server', …)` forks for each.
"""

import importlib
from typing import Any

import benchmarks.__main__
import launch.plan
import launch.results
import launch.sweep
import moe.checkpoints.__main__
import moe.convert_images
import moe.evaluate
import moe.predict
import moe.report.__main__
import moe.sample
import moe.tokenize
import train
from launch.planning.chips import parse_topology
from moe.command_line import read_config, read_flags, read_overrides
from moe.workloads import registry

# By the name after `python -m`.
COMMANDS: dict[str, Any] = {
    'benchmarks': benchmarks.__main__,
    'launch.plan': launch.plan,
    'launch.results': launch.results,
    'launch.sweep': launch.sweep,
    'moe.checkpoints': moe.checkpoints.__main__,
    'moe.convert_images': moe.convert_images,
    'moe.evaluate': moe.evaluate,
    'moe.predict': moe.predict,
    'moe.report': moe.report.__main__,
    'moe.sample': moe.sample,
    'moe.tokenize': moe.tokenize,
    'train': train,
}


def main(argv: list[str]) -> int:
    """Runs or reads a command.

    Args:
      argv: this module's name, 'run' or 'read', the command's module, and its
        arguments.

    Returns:
      The exit code of the command; 0 for one that is well-formed.
    """
    mode, name, *arguments = argv[1:]
    if mode == 'run':
        if name in COMMANDS:
            return COMMANDS[name].main([name, *arguments])
        importlib.import_module(name).main()
        return 0
    _read(name, arguments)
    return 0


def _read(name: str, arguments: list[str]) -> None:
    """Raises for a command that the program would refuse."""
    module = COMMANDS[name]
    if name == 'launch.sweep':
        # A plan of every trial takes minutes.
        arguments = [a for a in arguments if not a.startswith('--plan=')]
        code = module.main([name, *arguments, '--dry_run'])
        assert code == 0, code
        return
    if name in ('train', 'launch.plan'):
        given = read_config(module._FLAGS, [name, *arguments])
        registry.read_config(given.plain, given.overrides)
        if name == 'launch.plan':
            parse_topology(module._FLAGS.topology)
        return
    flags = [a for a in arguments if a.startswith('--')]
    if name == 'moe.evaluate':
        read_overrides(module._FLAGS, [name, *arguments])
        return
    if name == 'moe.checkpoints':
        module = module.COMMANDS[arguments[0]]
        takes = hasattr(module, 'OVERRIDES')
        read = read_overrides if takes else read_flags
        read(module.FLAGS, [name, *flags])
        return
    read_flags(module._FLAGS, [name, *flags])
