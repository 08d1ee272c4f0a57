"""What is shown of trials, in a terminal and in a file."""

import sys

import pytest

from launch import progress

WAITING = progress.Row('b=1', 'waiting', 0, 100, None, None, 0)
RUNNING = progress.Row('a=1', 'running', 40, 100, 2.5, 75.4, 1)


def test_lines(capsys, monkeypatch):
    # A line for what changes, one every 30 seconds for what runs.
    now = [0.0]
    monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
    with progress.display() as show:
        show([WAITING, WAITING._replace(name='a=1')])
        assert capsys.readouterr().out == ''
        show([WAITING, RUNNING])
        line = 'running     a=1  step 40/100  loss 2.5000  1m15s left\n'
        assert capsys.readouterr().out == line
        now[0] = 29.0
        show([WAITING, RUNNING._replace(step=60)])
        assert capsys.readouterr().out == ''
        now[0] = 30.0
        show([WAITING, RUNNING._replace(step=60, left=9.6)])
        line = 'running     a=1  step 60/100  loss 2.5000  0m10s left\n'
        assert capsys.readouterr().out == line
        show([WAITING, RUNNING._replace(attempts=2, loss=None, left=None)])
        assert capsys.readouterr().out == (
            'running     a=1  step 40/100  attempt 2\n'
        )
        show([WAITING, RUNNING._replace(state='done', step=100)])
        assert capsys.readouterr().out == (
            'done        a=1  step 100/100  loss 2.5000\n'
        )


def test_table(capsys, monkeypatch):
    rich = pytest.importorskip('rich')
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
    with progress.display() as show:
        show([RUNNING, WAITING])
    rich.reconfigure()
    out = capsys.readouterr().out
    for word in ('trial', 'attempts', 'a=1', '40/100', '2.5000', '1m15s'):
        assert word in out
    assert out.index('a=1') < out.index('b=1')


def test_without_rich(capsys, monkeypatch):
    # It is an extra.
    monkeypatch.setattr(progress, 'find_spec', lambda name: None)
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
    with progress.display() as show:
        show([RUNNING])
    assert capsys.readouterr().out.startswith('running     a=1')
