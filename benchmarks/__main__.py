"""`python -m benchmarks layer [--rows=8192 ...]`: prints a table."""

import sys

from absl import flags

from benchmarks import layer
from moe.training.host import keep_freed_memory

_ROWS = flags.DEFINE_integer('rows', 8192, '(token, choice) pairs.', 64)
_WIDTH = flags.DEFINE_integer('width', 512, 'D.', 1)
_HIDDEN = flags.DEFINE_integer('hidden', 2048, 'F of an expert.', 1)
_ROUNDS = flags.DEFINE_integer('rounds', 7, 'Times each is measured.', 1)

_SUITES = {'layer': layer.run}


def main(argv: list[str]) -> int:
    """Runs the named suite; returns the exit code."""
    try:
        names = flags.FLAGS(argv)[1:]
    except flags.Error as error:
        print(f'benchmarks: {error}', file=sys.stderr)
        return 2
    if len(names) != 1 or names[0] not in _SUITES:
        known = ', '.join(_SUITES)
        print(f'benchmarks: name one suite of {known}', file=sys.stderr)
        return 2
    keep_freed_memory()
    suite = _SUITES[names[0]]
    lines = suite(_ROWS.value, _WIDTH.value, _HIDDEN.value, _ROUNDS.value)
    print('\n'.join(lines))
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv))
