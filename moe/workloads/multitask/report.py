"""What a run of several tasks shows: each task's results, and its experts."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from moe.report import plots
from moe.report.markup import figure, shade_table, table

_Metrics = Sequence[Mapping[str, Any]]
_Rows = dict[str, dict[str, str]]


def details(metrics: _Metrics, test: Mapping[str, float]) -> list[str]:
    """Results by task, and which experts each task's gate uses.

    Args:
      metrics: lines of `metrics.jsonl`.
      test: results on the test rows, by TASK/METRIC; empty without any.

    Returns:
      Parts of the page; none for a run of one task.
    """
    parts = [*_results(metrics), *_test(test), *_gates(metrics)]
    return [part for part in parts if part]


def summary(metrics: _Metrics, test: Mapping[str, float]) -> list[str]:
    """One line a task with its newest results, and those of the test."""
    tested = _lines(_by_task(test))
    return [
        *_lines(_by_task(_newest(metrics))),
        *(['test:', *tested] if tested else []),
    ]


def _lines(rows: _Rows) -> list[str]:
    return [
        f'  {task}: '
        + ', '.join(f'{value} {name}' for name, value in cells.items())
        for task, cells in rows.items()
    ]


def _names(metrics: _Metrics, pattern: str) -> dict[str, tuple[str, ...]]:
    """Metrics that match, in order, and the groups of each match."""
    names = dict.fromkeys(name for line in metrics for name in line)
    found = {name: re.fullmatch(pattern, name) for name in names}
    return {name: m.groups() for name, m in found.items() if m}


def _newest(metrics: _Metrics) -> dict[str, float]:
    """The last value of every result, by TASK/METRIC."""
    return {
        name: plots.series(metrics, line)[1][-1]
        for line, (name,) in _names(metrics, 'eval/(.+/.+)').items()
    }


def _by_task(results: Mapping[str, float]) -> _Rows:
    """Cells of results, by task and metric."""
    rows: _Rows = {}
    for name, value in results.items():
        task, _, metric = name.rpartition('/')
        if task:
            rows.setdefault(task, {})[metric] = f'{value:.4f}'
    return rows


def _columns(rows: _Rows) -> list[str]:
    return list(dict.fromkeys(c for row in rows.values() for c in row))


def _test(test: Mapping[str, float]) -> list[str]:
    rows = _by_task(test)
    if not rows:
        return []
    return ['<h3>On the test rows</h3>', table(rows, _columns(rows), 'task')]


def _results(metrics: _Metrics) -> list[str]:
    rows = _by_task(_newest(metrics))
    columns = _columns(rows)
    if not rows:
        return []
    parts = ['<h3>Results by task</h3>', table(rows, columns, 'task')]
    for metric in columns:
        lines = {f'eval/{task}/{metric}': task for task in rows}
        image = plots.curves({'': metrics}, lines, metric)
        parts.append(figure(image, f'Validation {metric} by task.'))
    for kind, caption in (
        ('loss', 'Training loss by task, unweighted.'),
        ('weight', 'Weight of each task, where it moves itself.'),
    ):
        found = _names(metrics, f'train/{kind}/(.+)')
        lines = {name: task for name, (task,) in found.items()}
        image = plots.curves({'': metrics}, lines, kind)
        parts.append(figure(image, caption))
    return parts


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
