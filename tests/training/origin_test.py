"""Where a run comes from."""

import re
import subprocess
import sys

from moe.training import origin


def test_command(monkeypatch):
    given = ['/usr/bin/python3.11', '-m', 'moe.x', '--config.a=b c']
    monkeypatch.setattr(sys, 'orig_argv', given)
    assert origin.command() == "python -m moe.x '--config.a=b c'"


def test_commit(monkeypatch, tmp_path):
    # Of the repository that has the code, not of one around it.
    found = origin.origin()
    assert found['command'].startswith('python ')
    if origin.commit() is not None:
        assert re.fullmatch('[0-9a-f]{40}[+]?', found['commit'])
    subprocess.run(['git', 'init', '-q', tmp_path], check=True)
    installed = tmp_path / 'origin.py'
    installed.touch()
    monkeypatch.setattr(origin, '__file__', str(installed))
    assert origin.commit() is None
    assert 'commit' not in origin.origin()
