"""Suite `layer`: a mixture layer beside limits, baselines and peers."""

import concurrent.futures
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.layers import cases, digest
from benchmarks.problem import Setting
from benchmarks.record import Record, cores, measured
from benchmarks.timing import Call, Case, Timing, measure

_BASE = Setting(tokens=4096, width=512, hidden=2048, num_experts=8)
_SMALL = Setting(tokens=512, width=32, hidden=32, num_experts=8)
_LOADS = ('balanced', 'half', 'zipf')

# Size -> layers, each with its loads; they are timed in turns.
SETTINGS: dict[str, list[tuple[Setting, tuple[str, ...]]]] = {
    'full': [
        (_BASE, _LOADS),
        (dataclasses.replace(_BASE, num_experts=64), _LOADS),
        (dataclasses.replace(_BASE, num_experts=256), ('balanced',)),
        (
            dataclasses.replace(_BASE, width=128, hidden=128, num_experts=32),
            _LOADS,
        ),
    ],
    'small': [(_SMALL, _LOADS)],
}
_COPIED = {'full': 2**28, 'small': 2**20}
# Of results that should be the same, relative.
_TOLERANCE = {'float32': 1e-3, 'bfloat16': 3e-2}

COPY = 'copy of memory'
DENSE_LIMIT = 'limit: dense'
MEMORY_LIMIT = 'limit: dense and weights in memory'
DROPLESS = 'grouped, dropless'
OURS = (DROPLESS, 'indexed, capacity 1.25')


def run(
    size: str, rounds: int, experts: Sequence[int] = ()
) -> Iterator[Record]:
    """Yields the records of every layer.

    Args:
      size: a key of SETTINGS.
      rounds: how many times each case is timed.
      experts: the numbers of experts to measure; all if it is empty.
    """
    for setting, loads in SETTINGS[size]:
        if not experts or setting.num_experts in experts:
            yield from _one_layer(setting, loads, rounds, _COPIED[size])


def _one_layer(setting, loads, rounds, copied) -> Iterator[Record]:
    tried = [copy_case(copied)]
    for i, load in enumerate(loads):
        loaded = dataclasses.replace(setting, load=load)
        tried += cases(loaded, dropless_only=i > 0)
    found = checked(measure(tried, rounds, digest))
    yield from compared(found, setting)


def compared(found: Sequence[tuple[Case, Timing]], setting) -> Iterator[Record]:
    """Yields the records of a layer, with ratios to its limits.

    Args:
      found: what was measured; a copy of memory comes first.
      setting: the setting, of the first load.
    """
    copied = found[0][0].facts['bytes']
    dense = min(
        timing.median
        for case, timing in found
        if case.name.startswith('dense') and timing.seconds
    )
    bandwidth = 2 * copied / found[0][1].median
    moved = 3 * setting.weight_bytes  # read twice, their gradient written once
    memory = dense + moved / bandwidth
    for case, timing in found:
        ratios = {}
        if timing.seconds and case.name != COPY:
            ratios['dense_over_time'] = round(dense / timing.median, 4)
            ratios['limit_over_time'] = round(memory / timing.median, 4)
        elif timing.seconds:
            ratios['gigabytes_per_second'] = round(bandwidth / 1e9, 2)
        yield measured(case, timing, **ratios)
    for name, seconds in ((DENSE_LIMIT, dense), (MEMORY_LIMIT, memory)):
        yield {
            'case': name,
            **setting.facts(),
            'milliseconds': {'median': round(1e3 * seconds, 3)},
            'dense_over_time': round(dense / seconds, 4),
        }


def copy_case(size: int) -> Case:
    """Returns the copy of memory by as many threads as there are cores.

    Args:
      size: bytes; they are read and written.
    """

    def build() -> Call:
        threads = cores()
        source = np.ones(size // 8)
        target = np.zeros_like(source)
        parts = list(
            zip(
                np.array_split(target, threads),
                np.array_split(source, threads),
                strict=True,
            )
        )
        pool = concurrent.futures.ThreadPoolExecutor(threads)
        return lambda: list(pool.map(lambda part: np.copyto(*part), parts))

    return Case(COPY, build, facts={'bytes': size})


def checked(
    found: Sequence[tuple[Case, Timing]],
) -> list[tuple[Case, Timing]]:
    """Fails the cases whose results are not those of ours with the same rows.

    Args:
      found: cases with Timings whose digests are of `layers.digest`.
    """
    desired = {
        (case.facts['load'], case.rows): timing.digest
        for case, timing in reversed(found)
        if case.name in OURS and timing.seconds
    }

    def differs(case: Case, timing: Timing) -> bool:
        same = desired.get((case.facts.get('load', ''), case.rows))
        if not same or not timing.seconds:
            return False
        tolerance = _TOLERANCE[case.facts['dtype']]
        return not np.allclose(timing.digest, same, rtol=tolerance)

    wrong = Timing(not_run='results are not those of this library', failed=True)
    return [(c, wrong if differs(c, t) else t) for c, t in found]
