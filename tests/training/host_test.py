"""Memory that is freed stays with the process; signals are given back."""

import os
import signal
import subprocess
import sys
import threading

import jax
import pytest
from jax._src import xla_bridge

from moe.config import ConfigError
from moe.training.host import (
    check_deterministic,
    make_deterministic,
    on_signals,
)

# Frees 64 MiB eight times; each time anew, they cost 16,384 page faults.
PROGRAM = """
import ctypes, resource
from moe.training.host import keep_freed_memory
if {keep}:
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use():
    block = libc.malloc(1 << 26)
    ctypes.memset(block, 1, 1 << 26)
    libc.free(block)
use()
before = faults()
for _ in range(8):
    use()
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='glibc only')
@pytest.mark.slow
def test_freed_memory_is_used_again():
    faults = {}
    for keep in (False, True):
        program = PROGRAM.format(keep=keep)
        done = subprocess.run(
            [sys.executable, '-c', program],
            capture_output=True,
            text=True,
            check=True,
        )
        faults[keep] = int(done.stdout)
    # 8 x 64 MiB are 131,072 pages of 4 KiB; kept, next to none is fresh.
    assert faults[True] < 1000 < faults[False]


def test_on_signals():
    before, seen = signal.getsignal(signal.SIGUSR1), []
    with on_signals([signal.SIGUSR1], seen.append):
        signal.raise_signal(signal.SIGUSR1)
    assert seen == [signal.SIGUSR1]
    assert signal.getsignal(signal.SIGUSR1) == before


def test_on_signals_of_another_thread_is_nothing():
    before, inside = signal.getsignal(signal.SIGUSR1), []

    def run():
        with on_signals([signal.SIGUSR1], inside.append):
            inside.append(signal.getsignal(signal.SIGUSR1))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert inside == [before]


@pytest.mark.parametrize('before', ['', '--xla_dump_to=x'])
def test_deterministic_before_jax_starts(monkeypatch, before):
    monkeypatch.setenv('XLA_FLAGS', before)
    started = xla_bridge, 'backends_are_initialized'
    monkeypatch.setattr(*started, lambda: False)
    make_deterministic()
    flags = os.environ['XLA_FLAGS'].split()
    assert flags == [*before.split(), '--xla_gpu_deterministic_ops=true']
    # Then it may start, and asking again changes nothing.
    monkeypatch.setattr(*started, lambda: True)
    check_deterministic('gpu')
    assert os.environ['XLA_FLAGS'].split() == flags


def test_too_late_to_be_deterministic(monkeypatch):
    monkeypatch.setenv('XLA_FLAGS', '')
    jax.devices()
    check_deterministic('cpu')
    check_deterministic('tpu')
    with pytest.raises(ConfigError, match='before JAX starts') as caught:
        check_deterministic('gpu')
    assert caught.value.field == 'config.deterministic'


@pytest.mark.slow
def test_train_sets_the_flag_before_jax_starts(tmp_path):
    # XLA ends the process for a flag that it does not know.
    program = (
        'import os, sys; import train; from jax._src import xla_bridge\n'
        'asked = []\n'
        'def make():\n'
        '    asked.append(xla_bridge.backends_are_initialized())\n'
        'train.make_deterministic = make\n'
        'code = train.main(sys.argv)\n'
        'print(code, asked)\n'
    )
    for value, asked in (('true', '[False]'), ('False', '[]')):
        done = subprocess.run(
            [
                *(sys.executable, '-c', program),
                '--config=configs/multitask.py:mmoe,synthetic',
                f'--workdir={tmp_path}/run',
                f'--config.deterministic={value}',
                '--config.steps=0',
            ],
            capture_output=True,
            text=True,
        )
        assert done.stdout == f'2 {asked}\n', done.stderr
