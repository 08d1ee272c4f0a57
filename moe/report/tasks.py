"""What a run of several tasks shows: each task's results, and its experts."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from moe.report import plots
from moe.report.markup import figure, shade_table, table

_Metrics = Sequence[Mapping[str, Any]]


def details(metrics: _Metrics) -> list[str]:
    """Results by task, and which experts each task's gate uses.

    Args:
      metrics: lines of `metrics.jsonl`.

    Returns:
      Parts of the page; none for a run of one task.
    """
    return [part for part in [*_results(metrics), *_gates(metrics)] if part]


def summary(metrics: _Metrics) -> list[str]:
    """One line a task with its newest results."""
    return [
        f'  {task}: '
        + ', '.join(f'{value} {name}' for name, value in cells.items())
        for task, cells in _newest(metrics).items()
    ]


def _names(metrics: _Metrics, pattern: str) -> dict[str, tuple[str, ...]]:
    """Metrics that match, in order, and the groups of each match."""
    names = dict.fromkeys(name for line in metrics for name in line)
    found = {name: re.fullmatch(pattern, name) for name in names}
    return {name: m.groups() for name, m in found.items() if m}


def _newest(metrics: _Metrics) -> dict[str, dict[str, str]]:
    """The last value of every result, by task and metric."""
    rows: dict[str, dict[str, str]] = {}
    for name, (task, metric) in _names(metrics, 'eval/(.+)/(.+)').items():
        _, values = plots.series(metrics, name)
        rows.setdefault(task, {})[metric] = f'{values[-1]:.4f}'
    return rows


def _results(metrics: _Metrics) -> list[str]:
    rows = _newest(metrics)
    columns = list(dict.fromkeys(c for row in rows.values() for c in row))
    if not rows:
        return []
    parts = ['<h3>Results by task</h3>', table(rows, columns, 'task')]
    for metric in columns:
        lines = {f'eval/{task}/{metric}': task for task in rows}
        image = plots.curves({'': metrics}, lines, metric)
        parts.append(figure(image, f'Validation {metric} by task.'))
    losses = {n: g[0] for n, g in _names(metrics, 'train/loss/(.+)').items()}
    image = plots.curves({'': metrics}, losses, 'loss')
    return [*parts, figure(image, 'Training loss by task, unweighted.')]


def _gates(metrics: _Metrics) -> list[str]:
    found = _names(metrics, 'moe/(.+)/gate')
    if not found:
        return []
    panels = {gate: name for name, (gate,) in found.items()}
    image = plots.expert_map(metrics, panels, 'mean gate', plots.GATES)
    last = {g: plots.series(metrics, n)[1][-1] for g, n in panels.items()}
    parts = [
        '<h3>Who uses which expert</h3>',
        figure(image, 'Mean gate of every expert over time, by gate.'),
    ]
    # Levels of different sizes have tables of their own.
    for size in dict.fromkeys(len(v) for v in last.values()):
        rows = {g: v.tolist() for g, v in last.items() if len(v) == size}
        parts.append(shade_table(rows, [str(e) for e in range(size)]))
    lines = {f'moe/{gate}/entropy': gate for gate in panels}
    image = plots.curves({'': metrics}, lines, 'entropy (nats)')
    return [*parts, figure(image, 'Entropy of the gates, mean over examples.')]
