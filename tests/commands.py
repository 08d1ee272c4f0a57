"""Command lines as processes of their own that share the slow imports."""

import json
import pathlib
import subprocess
import sys
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent

# Imports a module once and forks for every command line, as if each had been
# typed: flags, standard streams and exit codes are all its own.
_SERVER = """
import gc, importlib, json, os, signal, sys, traceback
gc.set_threshold(50_000, 20, 10)  # as in tests/conftest.py
name, folder, seconds = sys.argv[1:]
main = importlib.import_module(name).main
found = []
for i, arguments in enumerate(json.load(sys.stdin)):
    paths = [os.path.join(folder, f'{i}.{end}') for end in ('out', 'err')]
    child = os.fork()
    if not child:
        for number, path in enumerate(paths, start=1):
            os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), number)
        signal.alarm(int(seconds))  # nothing takes that long
        sys.argv = [name, *arguments]
        try:
            code = main(sys.argv)
        except SystemExit as error:
            code = error.code
        except BaseException:
            traceback.print_exc()
            code = 70
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found.append([code, *(open(path).read() for path in paths)])
json.dump(found, sys.stdout)
"""


class Result(NamedTuple):
    """What came of a command line."""

    code: int
    out: str
    err: str


def run_all(module, command_lines, folder, env=None, cwd=ROOT, seconds=100):
    """Runs `module.main` on each list of arguments; returns the Results."""
    done = subprocess.run(
        [sys.executable, '-c', _SERVER, module, str(folder), str(seconds)],
        input=json.dumps([[str(a) for a in line] for line in command_lines]),
        capture_output=True,
        text=True,
        cwd=cwd,
        env=env,
        check=True,
    )
    return [Result(*found) for found in json.loads(done.stdout)]


def run(*command):
    """Runs one command line of this Python, the whole of it."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    return Result(done.returncode, done.stdout, done.stderr)
