"""How a run answers SIGTERM and SIGINT, in any phase.

The training loop looks for a stop at every step and batch of an evaluation,
and saves. What else a run does is ended where it is: its files are whole or
absent, and the next start does it again. A second signal ends the process at
once, whatever it does.
"""

import contextlib
import ctypes
import itertools
import os
import select
import signal
import threading
import time
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from moe.training.host import on_signals

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Seconds after a signal until what does not listen is ended.
_PATIENCE = 4.0
# Two signals within these seconds are one: launchers pass on what the
# terminal has sent already.
_TOGETHER = 0.3
# Points at which processes ask whether to stop, the same for all of them.
_POINTS = itertools.count()


class Stopped(BaseException):
    """A signal has ended what loses nothing by it."""


class Stop:
    """Whether a signal to any process of the run has asked for its end."""

    def __init__(self):
        self._asked = self._decided = self._noted = False
        self._forward = lambda: None

    def __call__(self) -> bool:
        """Whether all processes stop here; they ask at the same points."""
        if not self._decided and jax.distributed.is_initialized():
            # Asking sends no message.
            reached = multihost_utils.reached_preemption_sync_point
            self._decided = reached(next(_POINTS))
        elif self._asked:
            self._decided = True
        return self._decided

    @property
    def decided(self) -> bool:
        """Whether it has said so."""
        return self._decided

    @contextlib.contextmanager
    def asked_for(self) -> Iterator[None]:
        """Only notes signals inside the block, which asks for them.

        Raises:
          Stopped: at its end, if it has not asked since a signal came.
        """
        self._noted = True
        try:
            yield
        except BaseException:
            self._noted = False
            raise
        self._noted = False
        if self._asked and not self._decided:
            self._end()

    def _handle(self, number: int) -> None:
        if self._asked:
            return
        self._asked = True
        if self._noted:
            name = signal.Signals(number).name
            _say(f'{name}: stops when it has saved; another ends it at once')
        elif not jax.distributed.is_initialized():
            self._end()
        # If the loop does not begin soon, the thread that watches ends it.
        self._forward()

    def _end(self) -> None:
        if jax.distributed.is_initialized():
            _leave()  # the others wait in a collective
        raise Stopped

    def _watch(self, pipe: int) -> None:
        """Ends the process at a second signal, or if it does not listen."""
        came: float | None = None
        while True:
            wait = None if came is None else _PATIENCE
            ready, _, _ = select.select([pipe], [], [], wait)
            if not ready and not self._noted:
                _leave()
            numbers = os.read(pipe, 1) if ready else b''
            if ready and not numbers:
                return
            if numbers and numbers[0] in SIGNALS:
                now = time.monotonic()
                if came is None:
                    came = now
                elif now - came > _TOGETHER:
                    os._exit(128 + numbers[0])


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """Turns SIGTERM and SIGINT to any process into a stop of all processes.

    Outside of the main thread, which alone can handle signals, there are none.

    Yields:
      The stop. At first a signal raises `Stopped` wherever the process is.
    """
    stop = Stop()
    with contextlib.ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            if jax.distributed.is_initialized():
                stop._forward = stack.enter_context(_handler_of_jax())
            stack.enter_context(on_signals(SIGNALS, stop._handle))
            stack.enter_context(_watched(stop))
        yield stop


@contextlib.contextmanager
def _watched(stop: Stop) -> Iterator[None]:
    """Has a thread see signals while the main thread is in native code."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    watch = threading.Thread(target=stop._watch, args=(read,), daemon=True)
    watch.start()
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(write)
        watch.join()
        os.close(read)


@contextlib.contextmanager
def _handler_of_jax() -> Iterator:
    """Takes JAX's handler of SIGTERM away for the block, and yields it.

    The handler tells all processes, through the coordinator, to stop at the
    same point. It is native, and Python would not give it back.
    """
    library = ctypes.CDLL(None)
    library.signal.restype = ctypes.c_void_p
    library.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    address = library.signal(signal.SIGTERM, None)
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(address or 0)
    try:
        yield lambda: address and handler(signal.SIGTERM)
    finally:
        library.signal(signal.SIGTERM, address)


def _say(line: str) -> None:
    # Not print: the signal may have come in the middle of one.
    os.write(2, f'{line}\n'.encode())


def _leave() -> None:
    """Ends the process where it is; nothing is lost."""
    _say('stopped; the same command resumes it')
    os._exit(0)
