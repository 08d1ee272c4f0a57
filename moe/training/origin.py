"""Where a run comes from: the commit of the code and the command."""

import pathlib
import shlex
import subprocess
import sys


def origin() -> dict[str, str]:
    """Returns the command, and the commit if there is one, by name."""
    found = commit()
    known = {} if found is None else {'commit': found}
    return {'command': command(), **known}


def commit() -> str | None:
    """Returns the commit of the code, with a + for uncommitted changes.

    None without git, or if the code is not in a repository of its own.
    """
    file = pathlib.Path(__file__)
    git = ['git', '-C', str(file.parent)]
    found = []
    for command in (
        ['ls-files', '--error-unmatch', file.name],
        ['rev-parse', 'HEAD'],
        ['status', '--porcelain', '-uno'],
    ):
        try:
            done = subprocess.run(
                [*git, *command], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        found.append(done.stdout.strip())
    _, head, edited = found
    return head + ('+' if edited else '')


def command() -> str:
    """Returns the command of this process, as a shell takes it."""
    _, *rest = sys.orig_argv or ['']
    return shlex.join(['python', *rest])
