"""The report page of a sweep, which compares its trials."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from moe.metrics import columns
from moe.report import plots
from moe.report.markup import figure, table
from moe.report.markup import page as whole_page

_Lines = Sequence[Mapping[str, Any]]


def page(found: Mapping[str, Any], logged: Mapping[str, _Lines]) -> str:
    """Returns the static page of a sweep, complete or not.

    Args:
      found: the results as `launch.results.read` describes them.
      logged: the metrics of every trial that has some, by name.

    Returns:
      HTML.
    """
    metrics, trials = found['metrics'], found['trials']
    done = sum(trial['done'] for trial in trials.values())
    intro = (
        f'{done} of {len(trials)} trials are done. {metrics[0]}: '
        f'{found["better"]} is better. {found.get("note", "")}'
    )
    parts = [f'<p>{html.escape(intro)}</p>']
    if found['seed']:
        parts += ['<h2>Means over the seeds</h2>', _groups(found)]
    parts += ['<h2>Trials</h2>', _trials(found)]
    for metric in metrics:
        parts += _against(found, metric)
    names = [n for n in trials if n in logged]
    labelled = {_marked(n, found['best']): columns(logged[n]) for n in names}
    # There may be a single evaluation: the training loss as well.
    for metric in dict.fromkeys([*metrics, 'train/loss']):
        image = plots.curves(labelled, {metric: ''}, metric)
        parts.append(figure(image, f'{metric} of every trial over its steps.'))
    return whole_page(found['name'], parts)


def against(found: Mapping[str, Any], field: str, metric: str) -> bytes | None:
    """Plots a metric against a field.

    Args:
      found: the results, see `page`.
      field: label of a field.
      metric: name of a metric.

    Returns:
      A PNG; None if no finished trial has the metric.
    """
    others = [
        other
        for other in found['fields'].values()
        if other not in (field, found['seed'])
        and not _follows(found, other, field)
    ]
    points = [
        (
            trial['values'][field],
            trial['metrics'][metric],
            ', '.join(f'{f}={trial["values"][f]}' for f in others),
        )
        for trial in found['trials'].values()
        if trial['done'] and trial['metrics'][metric] is not None
    ]
    return plots.against(points, field, metric)


def _follows(found: Mapping[str, Any], other: str, field: str) -> bool:
    """Whether a field's value always comes with the same one of another."""
    pairs = {
        (trial['values'][field], trial['values'][other])
        for trial in found['trials'].values()
    }
    return len(pairs) == len({value for value, _ in pairs})


def _against(found: Mapping[str, Any], metric: str) -> list[str]:
    caption = 'A dot is a trial; lines join the means over the seeds.'
    return [
        figure(against(found, field, metric), f'{metric} by {field}. {caption}')
        for field in found['fields'].values()
        if field != found['seed']
    ]


def _trials(found: Mapping[str, Any]) -> str:
    rows = {
        _marked(name, found['best']): {
            **{f: str(value) for f, value in trial['values'].items()},
            'step': f'{trial["step"]}/{trial["steps"]}',
            **{m: _number(value) for m, value in trial['metrics'].items()},
        }
        for name, trial in found['trials'].items()
    }
    columns = [*found['fields'].values(), 'step', *found['metrics']]
    return table(rows, columns, 'trial')


def _groups(found: Mapping[str, Any]) -> str:
    rows = {}
    for i, group in enumerate(found['groups']):
        name = ', '.join(f'{f}={v}' for f, v in group['values'].items())
        cells = {'n': str(len(group['trials']))}
        for metric, value in group['metrics'].items():
            cells[metric] = _number(value['mean'])
            cells[f'{metric} std'] = _number(value['std'])
        best = i if i == found['best_group'] else None
        rows[f'{name or "all"}{" (best)" if best is not None else ""}'] = cells
    metrics = [c for m in found['metrics'] for c in (m, f'{m} std')]
    return table(rows, ['n', *metrics], 'trials')


def _marked(name: str, best: str | None) -> str:
    return f'{name} (best)' if name == best else name


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.4g}'
