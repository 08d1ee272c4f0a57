"""Report sections of multi-task learning: results and gates by task."""

from collections.abc import Mapping

from moe.paths import read_json
from moe.report import plots
from moe.report.markup import figure, section, shade_table, table
from moe.report.page import Sections
from moe.report.run import Run

_Rows = dict[str, dict[str, str]]


def details(run: Run) -> list[str]:
    """Returns results by task and the mean gates of the experts, HTML."""
    return [
        section('Results by task', _results(run)),
        section('On the test rows', _test(run)),
        section('Mean gate of every expert', _gates(run)),
    ]


def summary(run: Run) -> list[str]:
    """Returns lines of each task's newest results, and of test results."""
    tested = _lines(_by_task(_test_results(run)))
    return [
        *_lines(_by_task(_newest(run))),
        *(['test:', *tested] if tested else []),
    ]


def _lines(rows: _Rows) -> list[str]:
    return [
        f'  {task}: '
        + ', '.join(f'{value} {name}' for name, value in cells.items())
        for task, cells in rows.items()
    ]


def _test_results(run: Run) -> dict[str, float]:
    """Reads the results on the test rows by TASK/METRIC, {} without any."""
    path = run.workdir / 'results.json'
    return read_json(path) if path.exists() else {}


def _newest(run: Run) -> dict[str, float]:
    """Returns the newest value of every metric, by TASK/METRIC."""
    found = run.matches('eval/(?!moe/)(.+/.+)')
    return {
        name: float(run.metrics[metric].last)
        for metric, (name,) in found.items()
    }


def _by_task(results: Mapping[str, float]) -> _Rows:
    """Formats results, by task and metric."""
    rows: _Rows = {}
    for name, value in results.items():
        task, _, metric = name.rpartition('/')
        if task:
            rows.setdefault(task, {})[metric] = f'{value:.4f}'
    return rows


def _columns(rows: _Rows) -> list[str]:
    return list(dict.fromkeys(c for row in rows.values() for c in row))


def _test(run: Run) -> list[str]:
    rows = _by_task(_test_results(run))
    return [table(rows, _columns(rows), 'task')]


def _results(run: Run) -> list[str]:
    rows = _by_task(_newest(run))
    columns = _columns(rows)
    if not rows:
        return []
    parts = [table(rows, columns, 'task')]
    for metric in columns:
        lines = {f'eval/{task}/{metric}': task for task in rows}
        image = plots.curves({'': run.metrics}, lines, metric)
        parts.append(figure(image, f'Validation {metric} by task.'))
    for kind, caption in (
        ('loss', 'Training loss by task, unweighted.'),
        ('weight', 'Weight of each task, if training changes it.'),
    ):
        found = run.matches(f'train/{kind}/(.+)')
        lines = {name: task for name, (task,) in found.items()}
        image = plots.curves({'': run.metrics}, lines, kind)
        parts.append(figure(image, caption))
    return parts


def _gates(run: Run) -> list[str]:
    gates = run.statistics().get('gate', {})
    if not gates:
        return []
    last = {gate: run.metrics[metric].last for gate, metric in gates.items()}
    parts = []
    # A table for each number of experts, which may differ between levels.
    for size in dict.fromkeys(len(values) for values in last.values()):
        rows = {g: v.tolist() for g, v in last.items() if len(v) == size}
        parts.append(shade_table(rows, [str(e) for e in range(size)]))
    return parts


SECTIONS = Sections(summary, details)
