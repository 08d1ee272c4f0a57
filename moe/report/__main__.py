"""`python -m moe.report DIR [DIR2 ...]`: the page of one run or several."""

import pathlib
import sys

from moe.config import ConfigError
from moe.report import summary, write


def main(argv: list[str]) -> int:
    """Writes the page into the first folder; returns the exit code."""
    folders = [pathlib.Path(a) for a in argv[1:]]
    if not folders:
        print('usage: python -m moe.report DIR [DIR2 ...]', file=sys.stderr)
        return 2
    try:
        page = write(folders[0], folders[1:])
        print(summary(folders[0]))
    except ConfigError as error:
        print(f'moe.report: {error}', file=sys.stderr)
        return 2
    print(f'report: {page}')
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv))
