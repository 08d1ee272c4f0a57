"""Settings of the host process."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Lets glibc keep what is freed, for programs that compute on the CPU.

    XLA frees and allocates its buffers every step; by default each large one
    comes fresh from the kernel, page by page. On two virtual cores that took
    half of a training step. Does nothing where malloc is not glibc's.
    """
    if not sys.platform.startswith('linux'):
        return
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
        mallopt(_M_ARENA_MAX, 1)
