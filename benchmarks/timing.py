"""Cases, and their timing in turns, so that a noisy machine is fair to all."""

import ctypes
import dataclasses
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

Call = Callable[[], Any]

LONG = 10.0  # seconds of a call that is made once


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows that experts multiply in one call.

    Attributes:
      useful: (token, choice) pairs that reach the output.
      padded: rows of buffers that hold none.
      dropped: pairs beyond the capacity of their expert.
    """

    useful: int
    padded: int = 0
    dropped: int = 0


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
      name: name in the table.
      build: makes inputs, compiles, and returns the call to be timed, which
        returns when its work is done. It runs when its turn comes.
      flops: useful FLOPs of a call; 0 if it is none of arithmetic.
      rows: rows that experts multiply; None if there are no experts.
      not_run: why the case cannot run; '' if it can.
      facts: its setting, by name, for the record.
      repeats: how often a call does the work, where starting it counts.
    """

    name: str
    build: Callable[[], Call]
    flops: float = 0.0
    rows: Rows | None = None
    not_run: str = ''
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    repeats: int = 1


@dataclasses.dataclass(frozen=True)
class Timing:
    """What came of a case.

    Attributes:
      seconds: wall-clock seconds of each timed call; empty if it did not run.
      not_run: why it did not; '' if it did.
      failed: whether it raised.
      digest: numbers of the first result, by which cases are compared.
    """

    seconds: tuple[float, ...] = ()
    not_run: str = ''
    failed: bool = False
    digest: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        """Returns the median seconds."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Returns the first and the third quartile of the seconds."""
        if len(self.seconds) < 2:
            return self.median, self.median
        low, _, high = statistics.quantiles(
            self.seconds, n=4, method='inclusive'
        )
        return low, high


def waiting(call: Call) -> Call:
    """Returns a call that returns when JAX's devices have done its work.

    Args:
      call: a function that returns device arrays.
    """
    return lambda: jax.block_until_ready(call())


def measure(
    cases: Iterable[Case],
    rounds: int,
    digest: Callable[[Any], tuple[float, ...]] | None = None,
    long: float = LONG,
) -> list[tuple[Case, Timing]]:
    """Times every case once a round, each round beginning with another.

    A case that cannot be built or run is left out and says why. One whose
    first call takes long is not called again.

    Args:
      cases: the cases.
      rounds: how many times each is timed, after one call that is not.
      digest: a function of the first result, kept in the Timing.
      long: seconds of a long call.

    Returns:
      The cases in order, each with its Timing.
    """
    found = [(case, *_first(case, digest)) for case in cases]
    again: list[tuple[Call, list[float]]] = [
        (call, [])
        for _, timing, call in found
        if call and timing.seconds and timing.median < long
    ]
    for i in range(rounds):
        start = i % max(len(again), 1)
        for call, times in again[start:] + again[:start]:
            times.append(_timed(call)[0])
    timed = {id(call): tuple(times) for call, times in again}
    result = []
    for case, timing, made in found:
        seconds = timed.get(id(made), timing.seconds)
        each = tuple(s / case.repeats for s in seconds)
        result.append((case, dataclasses.replace(timing, seconds=each)))
    return result


def _first(case: Case, digest) -> tuple[Timing, Call | None]:
    """Builds a case and calls it once; one that fails does not stop others."""
    if case.not_run:
        return Timing(not_run=case.not_run), None
    _release_memory()
    try:
        call = case.build()
        seconds, result = _timed(call)
        return Timing((seconds,), digest=digest(result) if digest else ()), call
    except Exception as error:
        text = ' '.join(f'{type(error).__name__}: {error}'.split())
        return Timing(not_run=text[:200], failed=True), None


def _release_memory() -> None:
    """Gives what is free back, as `keep_freed_memory` does not.

    Else the holes that cases of other sizes leave add up.
    """
    gc.collect()
    if sys.platform.startswith('linux'):
        trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
        if trim is not None:
            trim(0)


def _timed(call: Call) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = call()
    return time.perf_counter() - begun, result


def medians(calls: Mapping[str, Call], rounds: int) -> dict[str, float]:
    """Returns the median seconds of each call, timed in turns.

    Args:
      calls: name to a function that returns device arrays.
      rounds: how many times each is timed, after one warm-up.

    Returns:
      Name to median wall-clock seconds.

    Raises:
      RuntimeError: if a call raises.
    """
    cases = [Case(n, lambda c=c: waiting(c)) for n, c in calls.items()]
    found = {}
    for case, timing in measure(cases, rounds):
        if timing.not_run:
            raise RuntimeError(f'{case.name}: {timing.not_run}')
        found[case.name] = timing.median
    return found
