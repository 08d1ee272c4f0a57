"""Errors of a disk that is full or fails: told once, in one line."""

import contextlib
import errno
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
# What native code that waits for a failed one gets.
_TOO_LATE = 'Event loop is closed'
_LOGGER = logging.getLogger('absl')  # which Orbax uses

Hook = Callable[[Any], object]


def failure(error: BaseException | None) -> str | None:
    """Returns an error of a disk that is full or fails as one line.

    Args:
      error: any error. Native code has the number of the system's error in its
        text; what an error follows from counts, too.

    Returns:
      The line; None for another error.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FAILURES:
            path = '' if error.filename is None else f'{error.filename!r}: '
            return f'{path}{error.strerror}'
        for number in re.findall(r"os_error_code='(\d+)'", str(error)):
            if int(number) in _FAILURES:
                return os.strerror(int(number))
        error = error.__cause__ or error.__context__
    return None


@contextlib.contextmanager
def told_once() -> Iterator[None]:
    """Keeps threads from printing such errors, which who waits for them tells.

    Orbax writes checkpoints in threads, each of which would print its own.
    """

    def unless_told(hook: Hook) -> Hook:
        return lambda failed: (
            None if _is_told(failed.exc_value) else hook(failed)
        )

    hooks: tuple[Any, Any] = threading.excepthook, sys.unraisablehook
    threading.excepthook, sys.unraisablehook = map(unless_told, hooks)
    _LOGGER.addFilter(_is_news)
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = hooks
        _LOGGER.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not (record.exc_info and _is_told(record.exc_info[1]))


def _is_told(error: BaseException | None) -> bool:
    return failure(error) is not None or str(error) == _TOO_LATE
