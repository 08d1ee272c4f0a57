"""Files that are mapped into memory while they are read."""

import bisect
import functools
import mmap
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

# Files that are mapped at once; others are mapped again when they are read.
_MAPPED = 64


class Integers(Sequence):
    """Integers in a mapped file, read one by one, without a copy.

    Args:
      path: path of the file.
      dtype: their dtype, with its byte order.
      offset: bytes before the first.
      count: how many.
    """

    def __init__(self, path: str, dtype: str, offset: int, count: int):
        self._path, self._offset, self._size = path, offset, count
        self._dtype = np.dtype(dtype)

    def __len__(self):
        return self._size

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            start, stop, _ = index.indices(self._size)
            return self.read(start, max(start, stop))
        if not -self._size <= index < self._size:
            raise IndexError(index)
        index = int(index) % self._size
        return int(self.read(index, index + 1)[0])

    def read(self, start: int, stop: int) -> np.ndarray:
        """Returns a span of them, int64."""
        size = self._dtype.itemsize
        first = self._offset + start * size
        if start == stop:
            return np.zeros(0, np.int64)
        raw = mapped(self._path)[first : first + (stop - start) * size]
        return np.frombuffer(raw, self._dtype).astype(np.int64)


def within(starts: Any, start: int, stop: int) -> np.ndarray:
    """Returns the ascending values in `start <= value < stop`, int64."""
    low = bisect.bisect_left(starts, start)
    high = bisect.bisect_left(starts, stop, lo=low)
    return np.asarray(starts[low:high], np.int64)


def mapped(path: str) -> mmap.mmap:
    """Returns a file's bytes, mapped for reading.

    Args:
      path: path of a file that is not empty.
    """
    now = os.stat(path)
    return _mapped(path, (now.st_ino, now.st_size, now.st_mtime_ns))


@functools.lru_cache(_MAPPED)
def _mapped(path: str, version: tuple[int, ...]) -> mmap.mmap:
    del version  # of the key: a file may be replaced
    with open(path, 'rb') as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
