"""One run at a time writes into a folder."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from moe.config import ConfigError
from moe.training.lock import locked

HOLD = """
import pathlib, sys
from moe.training.lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print('held', flush=True)
    sys.stdin.read()
"""


def refused(folder):
    with pytest.raises(ConfigError) as caught, locked(folder):
        pass
    assert caught.value.field == 'workdir'
    assert '\n' not in str(caught.value)
    return caught.value.allowed


def test_held_by_a_process_until_it_ends_in_any_way(tmp_path):
    folder = tmp_path / 'run'
    with subprocess.Popen(
        [sys.executable, '-c', HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout.readline() == 'held\n'
        found = json.loads((folder / 'run.lock').read_text())
        assert (found['host'], found['pid']) == (
            socket.gethostname(),
            holder.pid,
        )
        who = f'process {holder.pid} of {socket.gethostname()}, since '
        assert refused(folder).startswith(f'free: {who}{found["since"]}, runs')
        holder.send_signal(signal.SIGKILL)
    # The file is still there, and nobody holds it.
    assert (folder / 'run.lock').exists()
    with locked(folder):
        own = json.loads((folder / 'run.lock').read_text())
        assert own['pid'] == os.getpid()
        # Twice in one process is once too often, too.
        assert f'process {os.getpid()} of ' in refused(folder)
    assert os.listdir(folder) == []
    with locked(folder):
        pass


@pytest.mark.parametrize('text', ['', 'null', '{"pid": "x"}', '\x00'])
def test_whatever_the_file_says(tmp_path, text):
    path = tmp_path / 'run.lock'
    path.write_text(text)
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert refused(tmp_path).startswith('free: another process runs in it')
    with locked(tmp_path):
        pass


def test_without_locks_the_processes_of_this_host_are_known(
    tmp_path, monkeypatch
):
    def none(*_):
        raise OSError(errno.ENOSYS, 'Function not implemented')

    monkeypatch.setattr(fcntl, 'flock', none)
    path = tmp_path / 'run.lock'
    holder = {'host': socket.gethostname(), 'pid': os.getppid(), 'since': 'now'}
    path.write_text(json.dumps(holder))
    assert f'process {os.getppid()} of' in refused(tmp_path)
    with subprocess.Popen([sys.executable, '-c', '']) as gone:
        pass
    for other in ({'pid': gone.pid}, {'host': 'another'}):
        path.write_text(json.dumps(holder | other))
        with locked(tmp_path):
            pass


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / 'file').write_text('')
    assert refused(tmp_path / 'file' / 'run').startswith('a folder, or')
