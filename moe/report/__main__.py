"""`python -m moe.report DIR [DIR2 ...]`: writes the page of one run or more."""

import pathlib
import sys

from absl import flags

from moe.command_line import command, define_plugins, read_flags
from moe.config.plugins import import_plugins_of_run
from moe.report.run import Run
from moe.workloads import reports

_FLAGS = flags.FlagValues()
define_plugins(_FLAGS)


@command('moe.report')
def main(argv: list[str]) -> int:
    """Writes the page into the first folder; returns the exit code."""
    given = [a for a in argv[1:] if not a.startswith('-')]
    folders = [pathlib.Path(a) for a in given]
    read_flags(_FLAGS, [a for a in argv if a not in given])
    if not folders:
        print('usage: python -m moe.report DIR [DIR2 ...]', file=sys.stderr)
        return 2
    for folder in folders:
        named = Run(folder).config.get('plugins', ())
        import_plugins_of_run(named, _FLAGS.plugins, folder)
    page = reports.write(folders[0], folders[1:])
    print(reports.summary(folders[0]))
    print(f'report: {page}')
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv))
