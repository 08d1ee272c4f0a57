"""What a run costs: speed, FLOPs by part, memory, waiting for data."""

import math
import statistics
from collections.abc import Mapping

from moe.report import plots
from moe.report.markup import figure, section, table
from moe.report.results import columns
from moe.report.run import Run

Runs = Mapping[str, Run]

_GIB = 2.0**30


def cost(runs: Runs) -> str:
    """Returns the section of what the runs cost.

    Args:
      runs: the runs by label.
    """
    parts = [
        _totals(runs),
        _flops_by_part(runs),
        _speed(runs),
        _curve(
            runs,
            'cost/mfu',
            'model FLOPs utilization',
            'Share of the '
            "devices' bfloat16 peak that the model's own FLOPs are.",
        ),
        _curve(
            runs,
            'cost/data_wait',
            'share of the time',
            'Share of the '
            'time of training in which the step waited for its batch.',
        ),
    ]
    return section('Cost', parts)


def _totals(runs: Runs) -> str:
    rows: dict[str, dict[str, str]] = {}
    for label, run in runs.items():
        for name, text in _of_run(run).items():
            rows.setdefault(name, {})[label] = text
    return table(rows, list(runs), 'in all, or the median')


def _of_run(run: Run) -> dict[str, str]:
    """Returns the costs of a run in words, those that are known."""
    found = {}
    for name, (unit,) in run.matches('cost/(.+)_seen').items():
        found[f'{unit} seen'] = f'{run.last(name):,.0f}'
    for name, (unit,) in run.matches('train/(.+)_per_second').items():
        found[f'{unit}/s, without evaluations'] = f'{_median(run, name):,.0f}'
    for name, text in {
        'cost/model_tflops': 'model TFLOP/s, all devices',
        'cost/mfu': 'model FLOPs utilization (MFU)',
        'cost/data_wait': 'share of the time waiting for data',
    }.items():
        if name in run.metrics:
            found[text] = f'{_median(run, name):.3g}'
    memory = run.last('cost/device_memory_peak')
    if memory:
        found['memory peak of a device, GiB'] = f'{memory / _GIB:.2f}'
    return found


def _median(run: Run, name: str) -> float:
    return statistics.median(run.metrics[name].values)


def _flops_by_part(runs: Runs) -> str:
    """Tabulates the FLOPs of a token or example, forward and backward."""
    rows: dict[str, dict[str, str]] = {}
    of = 'token'
    for label, run in runs.items():
        found = run.matches('cost/flops_per_([^/]+)/(.+)')
        total = sum(run.last(name) or 0.0 for name in found)
        for name, (unit, part) in found.items():
            of = unit
            flops = run.last(name) or 0.0
            share = f'{flops / total:.0%}' if total else '-'
            rows.setdefault(part, {})[label] = f'{_scaled(flops)} ({share})'
        if found:
            rows.setdefault('all', {})[label] = _scaled(total)
    if 'all' in rows:
        rows['all'] = rows.pop('all')  # the last
    return table(rows, list(runs), f'FLOPs a {of}, forward and backward')


def _scaled(flops: float) -> str:
    """Returns a number with the prefix of its size: 1.29 M of 1,290,000."""
    size = min(max(int(math.log10(flops)) // 3, 0), 4) if flops >= 1 else 0
    return f'{flops / 1000**size:.3g} {" kMGT"[size]}'.rstrip()


def _speed(runs: Runs) -> str:
    for run in runs.values():
        for name, (unit,) in run.matches('train/(.+)_per_second').items():
            image = plots.curves(columns(runs), {name: ''}, f'{unit}/s')
            return figure(image, 'Speed of training, without evaluations.')
    return ''


def _curve(runs: Runs, name: str, label: str, caption: str) -> str:
    return figure(plots.curves(columns(runs), {name: ''}, label), caption)
