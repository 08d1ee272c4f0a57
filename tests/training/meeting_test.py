"""Processes meet, and who is missing is said meanwhile."""

import concurrent.futures
import socket
import time

import pytest

from moe.config import ConfigError
from moe.training import meeting


@pytest.fixture
def address(monkeypatch):
    monkeypatch.setattr(meeting, '_EVERY', 0.3)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return f'127.0.0.1:{free.getsockname()[1]}'


@pytest.fixture
def pool():
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        yield threads


def connect(address):
    host, port = address.split(':')
    while True:
        try:
            return socket.create_connection((host, int(port)), 5)
        except OSError:
            time.sleep(0.01)


def test_all_come_in_any_order(address, pool, capsys):
    last = pool.submit(meeting.meet, address, 4, 2)
    time.sleep(0.5)
    first = pool.submit(meeting.meet, address, 4, 0)
    # Somebody else, and a process that ends while it waits.
    with connect(address) as stranger:
        stranger.sendall(b'GET / HTTP/1.1\r\n\r\n')
        assert stranger.recv(10) == b''
    with connect(address) as ended:
        ended.sendall(b'moe process 1 4')
        time.sleep(0.2)
    time.sleep(0.7)
    assert not first.done()
    third = pool.submit(meeting.meet, address, 4, 3)
    meeting.meet(address, 4, 1)
    assert {t.result(9) for t in (first, third, last)} == {None}
    printed = capsys.readouterr().out
    assert f'process 2 of 4 waits for all at {address}\n' in printed
    assert f'waits for process 0 at {address} (0 s)\n' in printed
    # The first process and those that are there both say it.
    assert printed.count('waits for process 1, 3 of 4 (') > 1
    # The address is free for JAX.
    host, port = address.split(':')
    socket.create_server((host, int(port))).close()


def test_who_does_not_come_in_time(address, pool, monkeypatch):
    monkeypatch.setattr(meeting, '_PATIENCE', 0.5)
    waiting = pool.submit(meeting.meet, address, 4, 2)
    with pytest.raises(ConfigError, match='that start; missing: 1, 3'):
        meeting.meet(address, 4, 0)
    with pytest.raises(ConfigError, match='the address of process 0'):
        waiting.result(9)


def test_who_was_started_wrongly(address, pool):
    first = pool.submit(meeting.meet, address, 3, 0)
    with pytest.raises(ConfigError, match='--process = 1: must be one of 3'):
        meeting.meet(address, 2, 1)
    right = pool.submit(meeting.meet, address, 3, 1)
    time.sleep(0.3)
    with pytest.raises(ConfigError, match='that no other process has'):
        meeting.meet(address, 3, 1)
    meeting.meet(address, 3, 2)
    assert first.result(9) is right.result(9) is None


def test_no_free_port(address):
    host, port = address.split(':')
    with (
        socket.create_server((host, int(port))),
        pytest.raises(ConfigError, match='a free port there'),
    ):
        meeting.meet(address, 2, 0)


@pytest.mark.parametrize(
    ('address', 'local'),
    [
        ('localhost:1', True),
        ('127.0.0.1:1', True),
        ('[::1]:1', True),
        ('10.0.0.1:1', False),
        ('host:1', False),
    ],
)
def test_addresses_of_this_machine_alone(address, local):
    assert meeting.is_local(address) == local
