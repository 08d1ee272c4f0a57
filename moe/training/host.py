"""Memory, signals and threads of the host process."""

import contextlib
import ctypes
import datetime
import os
import pathlib
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax._src import xla_bridge

from moe.config import ConfigError

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory, for programs that compute on the CPU.

    XLA frees and allocates its buffers every step; by default the kernel then
    maps each large one again, page by page, which took half of a training step
    on two virtual cores. It does nothing if malloc is not glibc's.
    """
    if not sys.platform.startswith('linux'):
        return
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
        mallopt(_M_ARENA_MAX, 1)


# It selects deterministic kernels and does not choose them by measured time.
# Source: openxla.org/xla/determinism, openxla/xla pull request 12520.
DETERMINISTIC = '--xla_gpu_deterministic_ops=true'


def make_deterministic() -> None:
    """Makes programs on GPUs return the same bits every time, if slower.

    On CPUs and TPUs they do anyway. XLA reads its flags when its devices start.

    Raises:
      ConfigError: if they have started without the flag.
    """
    flags = os.environ.get('XLA_FLAGS', '').split()
    if DETERMINISTIC in flags:
        return
    # There is no public way to ask without starting them.
    if xla_bridge.backends_are_initialized():
        allowed = f'false, or XLA_FLAGS={DETERMINISTIC} before JAX starts'
        raise ConfigError('config.deterministic', True, allowed)
    os.environ['XLA_FLAGS'] = ' '.join([*flags, DETERMINISTIC])


def check_deterministic(platform: str) -> None:
    """Refuses GPUs whose programs need not return the same bits every time.

    Args:
      platform: platform of the devices.

    Raises:
      ConfigError: for GPUs without the flag of `make_deterministic`.
    """
    if platform in ('gpu', 'cuda', 'rocm'):
        make_deterministic()


@contextlib.contextmanager
def on_signals(
    numbers: Sequence[int], handle: Callable[[int], object]
) -> Iterator[None]:
    """Calls a function on signals, instead of ending the process.

    It does nothing outside of the main thread, which alone can handle signals.

    Args:
      numbers: numbers of the signals.
      handle: function that is called with the number of a signal.
    """
    call = lambda number, frame: handle(number)
    try:
        before = {n: signal.signal(n, call) for n in numbers}
    except ValueError:  # not the main thread
        before = {}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def one_at_a_time(step: Callable) -> Callable:
    """Runs one program at a time on virtual devices of the CPU.

    They share its threads, all of which collectives of two programs can block
    while they wait for a device without a thread; JAX 0.10 then aborts after
    40 seconds.

    Args:
      step: a jitted function.
    """
    if jax.default_backend() != 'cpu' or jax.device_count() == 1:
        return step
    return lambda *args: jax.block_until_ready(step(*args))


def this_process() -> dict[str, Any]:
    """Returns what tells this process from others: its host and its number."""
    return {'host': socket.gethostname(), 'pid': os.getpid()}


def now() -> str:
    """Returns the time in UTC, in seconds, as ISO 8601 writes it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')


def available_memory() -> int:
    """Returns the bytes of memory that this process may still take."""
    try:
        found = pathlib.Path('/proc/meminfo').read_text()
        free = 1024 * int(re.findall(r'MemAvailable: *(\d+)', found)[0])
    except (OSError, IndexError):
        free = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    with contextlib.suppress(OSError, ValueError, IndexError):  # a container's
        group = pathlib.Path('/sys/fs/cgroup')
        limit = int((group / 'memory.max').read_text())
        taken = (group / 'memory.stat').read_text()
        free = min(free, limit - int(re.findall(r'^anon (\d+)', taken)[0]))
    return max(free, 0)
