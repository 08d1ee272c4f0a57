"""Shows that long work goes on: one updating line, or sparse lines in a log."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

# Seconds between updates of the line of a terminal, and between those of a
# log, where work that is shorter leaves none.
_LIVE, _SPARSE = 0.5, 30.0

Count = Callable[[int], None]


@contextlib.contextmanager
def shown(
    what: str, total: int | None = None, unit: str = '', active: bool = True
) -> Iterator[Count]:
    """Shows on stderr how long the work inside the block has taken.

    Args:
      what: name of the work, such as 'evaluation'.
      total: number of parts it has; None if it is not known.
      unit: unit of the parts, a plural.
      active: whether to show it; one of several processes does.

    Yields:
      A function that is told the number of parts done.
    """
    if not active or sys.stderr is None or sys.stderr.closed:
        yield lambda done: None
        return
    line = _Line(what, total, unit)
    thread = threading.Thread(target=line.show, daemon=True)
    thread.start()
    try:
        yield line.reach
    finally:
        line.over.set()
        thread.join()


class _Line:
    """The line, which a thread writes: the work need not care for it."""

    def __init__(self, what: str, total: int | None, unit: str):
        self._what, self._total, self._unit = what, total, unit
        self._done, self._begun = 0, time.monotonic()
        self.over = threading.Event()

    def reach(self, done: int) -> None:
        """Notes the number of parts done."""
        self._done = done

    def show(self) -> None:
        """Writes until the work is over."""
        live, width = sys.stderr.isatty(), 0
        while not self.over.wait(_LIVE if live else _SPARSE):
            text = self._text()
            end = ' ' * (width - len(text)) if live else '\n'
            width = len(text)
            _write(('\r' if live else '') + text + end)
        if width and live:
            _write('\r' + ' ' * width + '\r')

    def _text(self) -> str:
        parts = [self._what]
        if self._done:
            of = f' of {self._total:,}' if self._total else ''
            parts.append(f'{self._done:,}{of} {self._unit}'.strip())
        seconds = round(time.monotonic() - self._begun)
        return ', '.join([*parts, f'{seconds // 60}m{seconds % 60:02}s'])


def _write(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # a stream that is gone
        sys.stderr.write(text)
        sys.stderr.flush()
