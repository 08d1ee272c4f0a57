"""Signals in every phase, of processes of their own."""

import signal
import subprocess
import sys
import time

import pytest

from moe.training.stopping import Stopped, stop_signals

INT, TERM = signal.SIGINT, signal.SIGTERM
PROGRAM = """
import hashlib, threading, time
from moe.training import stopping
def ready():
    print('ready', flush=True)
def deaf():  # native code, as a compiler's
    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)
stopping._PATIENCE = 1.0
try:
    with stopping.stop_signals() as stop:
        {body}
except stopping.Stopped:
    print('ended', flush=True)
"""
SLEEPS = 'ready(); time.sleep(60)'
DEAF = 'threading.Timer(0.3, ready).start(); deaf()'
# As the training loop: asks between steps, then saves.
ASKS = """
with stop.asked_for():
    ready()
    while not stop():
        time.sleep(0.1)
    time.sleep(1.5)
print('saved', stop.decided, flush=True)
"""
# A step that takes longer than anything that does not ask may take.
LONG_STEP = """
with stop.asked_for():
    ready()
    end = time.monotonic() + 2
    while time.monotonic() < end:
        time.sleep(0.1)
    print('asked', stop(), flush=True)
"""
WAITS = """
with stop.asked_for():
    ready()
    time.sleep(2)  # for a checkpoint, after the last question
print('finalize')
"""
NOTED = 'stops when it has saved; another ends it at once\n'
STOPPED = 'stopped; the same command resumes it\n'


@pytest.mark.slow
@pytest.mark.parametrize(
    ('body', 'signals', 'code', 'out', 'err'),
    [
        (SLEEPS, [TERM], 0, 'ended\n', ''),
        (SLEEPS, [INT], 0, 'ended\n', ''),
        (DEAF, [TERM], 0, '', STOPPED),
        (DEAF, [INT, INT], 130, '', ''),
        (ASKS, [TERM], 0, 'saved True\n', f'SIGTERM: {NOTED}'),
        (ASKS, [INT, TERM], 143, '', f'SIGINT: {NOTED}'),
        (LONG_STEP, [INT], 0, 'asked True\n', f'SIGINT: {NOTED}'),
        (WAITS, [TERM], 0, 'ended\n', f'SIGTERM: {NOTED}'),
    ],
    ids=range(8),
)
def test_phases(body, signals, code, out, err):
    indented = body.strip().replace('\n', '\n        ')
    with subprocess.Popen(
        [sys.executable, '-c', PROGRAM.replace('{body}', indented)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout.readline() == 'ready\n'
            begun = time.monotonic()
            for number in signals:
                process.send_signal(number)
                time.sleep(0.5)
            assert process.communicate(timeout=30) == (out, err)
            assert process.returncode == code
            assert time.monotonic() - begun < 20
        finally:
            process.kill()


def test_handlers_are_given_back():
    before = [signal.getsignal(number) for number in (TERM, INT)]
    with stop_signals() as stop:
        assert not stop()
        with pytest.raises(Stopped):
            signal.raise_signal(TERM)
    assert [signal.getsignal(number) for number in (TERM, INT)] == before
    with stop_signals() as stop, stop.asked_for():
        signal.raise_signal(INT)
        assert not stop.decided
        assert stop()
        assert stop.decided
    assert [signal.getsignal(number) for number in (TERM, INT)] == before


def test_an_error_goes_before_the_stop():
    def fails():
        with stop_signals() as stop, stop.asked_for():
            signal.raise_signal(INT)
            raise KeyError

    with pytest.raises(KeyError):
        fails()
