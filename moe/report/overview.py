"""The head of a page: what the runs are, what they came to, how they differ."""

import functools
import html
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from moe.config.plain import different
from moe.report.markup import folded, paragraph, section, table
from moe.report.results import labels
from moe.report.run import Run
from moe.report.same_data import different_data

Runs = Mapping[str, Run]


def overview(runs: Runs) -> str:
    """Returns the table of what the runs are and came to, a column each.

    Rows that no run has are left out.

    Args:
      runs: the runs by label.
    """
    results: dict[str, str] = {}
    for run in runs.values():
        results |= labels(run)
    rows: dict[str, Callable[[Run], str | None]] = {
        'steps': _steps,
        **{
            f'validation {label}': functools.partial(number, name=name)
            for name, label in results.items()
        },
        'validation loss': functools.partial(number, name='eval/loss'),
        'train loss': functools.partial(number, name='train/loss'),
        'largest load / uniform': _trained_load,
        'parameters': functools.partial(_count, name='parameters'),
        'active parameters': functools.partial(_count, name='active'),
        'tokens or examples seen': _seen,
        'speed without evaluations': speed,
        'devices': functools.partial(_fact, name='devices'),
        'commit': _commit,
    }
    cells: dict[str, dict[str, str]] = {}
    for name, cell in rows.items():
        found = {label: cell(run) for label, run in runs.items()}
        there = {label: text for label, text in found.items() if text}
        if there:
            cells[name] = there
    return table(cells, list(runs), '', 'words') + _commands(runs)


def _commands(runs: Runs) -> str:
    """Returns the command of each run whose history has it, folded."""
    found = {label: run.fact('command') for label, run in runs.items()}
    return ''.join(
        folded(
            'Command' if len(runs) == 1 else f'Command of {label}',
            f'<pre>{html.escape(str(command))}</pre>',
        )
        for label, command in found.items()
        if command
    )


def comparability(runs: Runs) -> str:
    """Returns a line if the runs are on different data, HTML.

    Args:
      runs: the runs by label.
    """
    folders = {label: run.workdir for label, run in runs.items()}
    return paragraph(different_data(folders), 'told')


def differing_fields(runs: Runs) -> str:
    """Returns the table of the fields of the configs that differ.

    Args:
      runs: the runs by label, of one workload or of several.
    """
    first, *others = runs.values()
    fields = {
        name: None
        for other in others
        for name, _, _ in different(first.config, other.config)
    }
    rows = {
        name: {label: _value(run.config, name) for label, run in runs.items()}
        for name in sorted(fields)
    }
    return section(
        'Fields that differ', [table(rows, list(runs), 'field', 'words')]
    )


def _value(config: Mapping[str, Any], name: str) -> str:
    """Returns the value of a dotted name, '(absent)' if there is none."""
    value: Any = config
    # Names of sources and of files may have dots themselves.
    while name:
        if not isinstance(value, Mapping):
            return '(absent)'
        key = next((k for k in value if f'{name}.'.startswith(f'{k}.')), None)
        if key is None:
            return '(absent)'
        value, name = value[key], name[len(key) + 1 :]
    return str(value)


def number(run: Run, name: str) -> str | None:
    """Returns the newest value of a metric as text, None without one."""
    value = run.last(name)
    return None if value is None else f'{value:.4f}'


def speed(run: Run) -> str | None:
    """Returns the median speed of a run, None before it is known."""
    for name, (unit,) in run.matches('train/(.+)_per_second').items():
        return f'{statistics.median(run.metrics[name].values):,.0f} {unit}/s'
    return None


def balance(run: Run) -> list[str]:
    """Returns the line of the largest load, if the run has mixtures."""
    for kind, where in (('eval/moe', ' in validation'), ('moe', '')):
        found = _largest_load(run, kind)
        if found is not None:
            load, layer = found
            words = f'{load:.2f} times uniform{where}, in {layer}'
            return [f'largest load: {words}']
    return []


def costs(run: Run) -> list[str]:
    """Returns the line of what the run cost, if that is known."""
    words = []
    for name, (unit,) in run.matches('cost/(.+)_seen').items():
        seen = run.last(name) or 0.0
        words.append(f'{seen:,.0f} {unit}')
        parts = run.matches(f'cost/flops_per_{unit[:-1]}/.+')
        flops = sum(run.last(part) or 0.0 for part in parts)
        if flops:
            words.append(f'{seen * flops:.2e} FLOPs of the model')
        rates = run.metrics.get(f'train/{unit}_per_second')
        if rates is not None:
            seconds = round(seen / statistics.median(rates.values))
            words.append(f'{seconds // 60}m{seconds % 60:02}s of training')
    return [f'cost: {", ".join(words)}'] if words else []


def _steps(run: Run) -> str:
    planned = run.config.get('steps')
    known = isinstance(planned, int) and planned != run.steps
    return f'{run.steps:,}' + (f' of {planned:,}' if known else '')


def _seen(run: Run) -> str | None:
    for name, (unit,) in run.matches('cost/(.+)_seen').items():
        return f'{run.last(name):,.0f} {unit}'
    return None


def _count(run: Run, name: str) -> str | None:
    found = run.fact(name)
    return f'{found:,}' if isinstance(found, int) else None


def _fact(run: Run, name: str) -> str | None:
    found = run.fact(name)
    return None if found is None else str(found)


def _commit(run: Run) -> str | None:
    """Returns as much of the commit as tells it, with its mark of changes."""
    found = _fact(run, 'commit')
    if found is None:
        return None
    return found[:12] + ('+' if found.endswith('+') else '')


def _largest_load(run: Run, kind: str) -> tuple[float, str] | None:
    """Returns the largest load of an expert over the mean, and its layer."""
    metrics = run.statistics(kind).get('load_max', {})
    loads = {place: run.last(name) for place, name in metrics.items()}
    found = [
        (load, place.replace('_', ' '))
        for place, load in loads.items()
        if load is not None
    ]
    return max(found, default=None)


def _trained_load(run: Run) -> str | None:
    found = _largest_load(run, 'moe')
    return found and f'{found[0]:.2f}'
