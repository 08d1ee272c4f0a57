"""Lines of measurements: what was measured, on what, and when."""

import functools
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import re
from collections.abc import Iterable, Iterator
from typing import Any

import jax

from benchmarks.timing import Case, Timing
from moe.training.host import now

RESULTS = pathlib.Path(__file__).parent / 'results'

_PACKAGES = (
    'jax',
    'flax',
    'numpy',
    'llvmlite',
    'torch',
    'transformers',
    'mixture-of-experts',
)

Record = dict[str, Any]


def measured(case: Case, timing: Timing | None, **facts: Any) -> Record:
    """Returns the line of a case, without its surroundings.

    Args:
      case: the case.
      timing: what came of it; None for one that is compiled alone.
      **facts: further results, by name.
    """
    record: Record = {'case': case.name, **case.facts, **facts}
    if case.rows is not None:
        record['rows'] = {
            'useful': case.rows.useful,
            'padded': case.rows.padded,
            'dropped': case.rows.dropped,
        }
    if timing is None:
        return record
    if timing.not_run:
        record['failed' if timing.failed else 'not_run'] = timing.not_run
        return record
    low, high = timing.quartiles
    record['milliseconds'] = {
        'median': round(1e3 * timing.median, 3),
        'q1': round(1e3 * low, 3),
        'q3': round(1e3 * high, 3),
        'min': round(1e3 * min(timing.seconds), 3),
        'calls': len(timing.seconds),
    }
    if case.flops:
        record['useful_gflops_per_second'] = round(
            case.flops / timing.median / 1e9, 2
        )
    return record


def surrounded(
    suite: str, records: Iterable[Record], command: str
) -> Iterator[Record]:
    """Yields records as lines of a file: with machine, versions, command.

    Args:
      suite: name of the suite.
      records: its records.
      command: the command line.
    """
    for record in records:
        yield {
            'suite': suite,
            **record,
            'machine': machine(),
            'versions': versions(),
            'command': command,
            'load_average': round(os.getloadavg()[0], 2),
            'time': now(),
        }


@functools.cache
def machine() -> dict[str, Any]:
    """Returns the processor, the cores that may be used, and the device."""
    device = jax.devices()[0]
    return {
        'processor': _processor(),
        'cores': cores(),
        'platform': device.platform,
        'device': device.device_kind,
        'devices': jax.device_count(),
    }


def cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    try:
        text = pathlib.Path('/proc/cpuinfo').read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r'model name\s*: (.*)', text)
    return found[1].strip() if found else platform.machine()


@functools.cache
def versions() -> dict[str, str]:
    """Returns the versions of Python and of what is measured."""
    found = {'python': platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def written(path: pathlib.Path, records: Iterable[Record]) -> Iterator[Record]:
    """Yields records, each when it is a line of a file.

    Args:
      path: the file, written anew.
      records: the records.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w') as file:
        for record in records:
            print(json.dumps(record), file=file, flush=True)
            yield record


def read(folder: pathlib.Path) -> list[Record]:
    """Returns the records of all files of a folder, by name of file.

    Args:
      folder: folder of JSON lines.
    """
    return [
        json.loads(line)
        for path in sorted(folder.glob('*.jsonl'))
        for line in path.read_text().splitlines()
    ]


def why_missing(*packages: str) -> str:
    """Returns why a case of other libraries cannot run; '' if it can.

    Args:
      *packages: names of the modules that it imports.
    """
    missing = [p for p in packages if importlib.util.find_spec(p) is None]
    names = ' and '.join(missing)
    verb = 'is' if len(missing) == 1 else 'are'
    return f'{names} {verb} not installed' if missing else ''
