"""Memory that is freed stays with the process; signals are given back."""

import signal
import subprocess
import sys
import threading

import pytest

from moe.training.host import on_signals

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
