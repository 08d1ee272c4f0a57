"""The report sections of a vision transformer.

Baselines, accuracy against capacity, few-shot accuracy, accuracy of the
classes, and the confusion matrix.
"""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from moe.paths import read_json, reading
from moe.report import plots
from moe.report.markup import figure, paragraph, section, shade_table, table
from moe.report.page import Sections
from moe.report.run import Run
from moe.workloads.vision import baselines, capacity_curve, inputs
from moe.workloads.vision.confusion import Confusion

# Of more classes the extremes are shown, and no matrix.
_MATRIX = 20
_EXTREMES = 10
_COLUMNS = ('images', 'accuracy', 'most often taken for')


def summary(run: Run) -> list[str]:
    """Returns the line of the baselines, if the run has some."""
    found = baselines.shown(run.workdir)
    words = ', '.join(f'{name} {value}' for name, value in found.items())
    return [f'baselines on the same images: {words}'] if found else []


def details(run: Run) -> list[str]:
    """Returns baselines, and the accuracy against capacity, and by class."""
    path = run.workdir / 'confusion.json'
    parts = [_baselines(run), _capacities(run), _few_shot(run)]
    if path.exists():
        found = Confusion.read(path)
        parts.append(_classes(found, _names(run, found.num_classes)))
    return [part for part in parts if part]


def _baselines(run: Run) -> str:
    found = baselines.shown(run.workdir)
    rows = {name: {'accuracy': value} for name, value in found.items()}
    return section('Baselines', [table(rows, ('accuracy',), 'baseline')])


def _few_shot(run: Run) -> str:
    """Returns the table of the linear probes, a row a file and number."""
    rows = {}
    for path in sorted((run.workdir / 'evaluations').glob('few-shot-*.json')):
        found = read_json(path)
        with reading(path):
            of = [f'step {found["step"]}', *_changes(found)]
            for row in found['rows']:
                spread = row['deviation']
                rows[f'{row["shots"]} of {", ".join(of)}'] = {
                    'accuracy': f'{row["mean"]:.4f}',
                    'deviation': '-' if spread is None else f'{spread:.4f}',
                    'draws': str(found['draws']),
                }
    columns = ('accuracy', 'deviation', 'draws')
    words = (
        'Regularised least squares from what the head reads of a few images of '
        'each class; the model stays as it is.'
    )
    shown = table(rows, columns, 'images a class')
    told = [paragraph(words), shown] if rows else []
    return section('Few-shot accuracy', told)


def _changes(found: Mapping[str, Any]) -> list[str]:
    """Returns the fields that were other than in training, in words."""
    given = found.get('changes', {}).items()
    return [f'{name} = {value}' for name, value in given]


def _capacities(run: Run) -> str:
    """Returns the section of the evaluations at several capacities."""
    paths = [run.workdir / capacity_curve.FILE]
    paths += sorted((run.workdir / 'evaluations').glob('capacity-*.json'))
    parts = [_capacity(path) for path in paths if path.exists()]
    words = (
        'The same parameters, evaluated with experts that take at most so many '
        'assignments: the capacity factor times their share at balance. Tokens '
        'are taken in their order, or those first of which the router is most '
        'confident (batch priority). What is beyond capacity skips its expert.'
    )
    told = [paragraph(words)] if parts else []
    return section('Accuracy against capacity', [*told, *parts])


def _capacity(path: pathlib.Path) -> str:
    """Returns the picture and the table of one file."""
    found = read_json(path)
    with reading(path):
        by_factor = capacity_curve.by_factor(found)
        metric = str(found['metric']).replace('_', ' ')
        rows, points = {}, []
        for factor, values in by_factor.items():
            row = {}
            for name, one in values.items():
                row[name] = f'{one["value"]:.4f}'
                row[f'dropped, {name}'] = f'{one["dropped"]:.1%}'
                given = by_factor if factor is None else [factor]
                points += [(x, one['value'], name) for x in given if x]
            rows['no limit' if factor is None else f'{factor:g}'] = row
        names = [capacity_curve.IN_ORDER, capacity_curve.PRIORITIZED]
        lines = [*names, capacity_curve.DROPLESS]
        points.sort(key=lambda point: (lines.index(point[2]), point[0]))
        of = [f'step {found["step"]}'] if 'step' in found else []
        of += _changes(found)
        caption = f'Validation {metric} against the capacity factor.'
        if of:
            caption += f' Of {", ".join(of)}.'
        parts = [
            figure(plots.against(points, 'capacity factor', metric), caption),
            table(_without_limit(rows), _columns(names), 'capacity factor'),
        ]
    return ''.join(parts)


def _columns(names: Sequence[str]) -> list[str]:
    return [*names, *(f'dropped, {name}' for name in names)]


def _without_limit(
    rows: Mapping[str, dict[str, str]],
) -> dict[str, dict[str, str]]:
    """Returns the rows, that without drops last and in the first column."""
    given = dict(rows)
    last = given.pop('no limit', {})
    shown = {capacity_curve.IN_ORDER: last.get(capacity_curve.DROPLESS, '-')}
    return {**given, 'no limit': shown}


def _names(run: Run, count: int) -> list[str]:
    """Returns what the classes are called: their names, or their numbers."""
    if not (run.workdir / inputs.FILE).exists():
        return [str(c) for c in range(count)]
    return inputs.Preparation.read(run.workdir).names(count)


def _classes(found: Confusion, names: Sequence[str]) -> str:
    accuracy = found.accuracy
    there = np.flatnonzero(found.images)
    if not len(there):
        return ''
    order = there[np.argsort(accuracy[there], kind='stable')]
    worst, best = order[0], order[-1]
    words = (
        f'Share of the validation images of a class that are predicted to be '
        f'of it: {np.mean(accuracy[there]):.3f} in the mean over '
        f'{len(there)} classes, least {accuracy[worst]:.3f} (class '
        f'{names[worst]}), most {accuracy[best]:.3f} (class {names[best]}).'
    )
    parts = [paragraph(words)]
    if found.num_classes <= _MATRIX:
        parts += [_rows(found, there, names), *_matrix(found, names)]
    else:
        lowest, highest = order[:_EXTREMES], order[: -_EXTREMES - 1 : -1]
        parts += [
            section('Lowest', [_rows(found, lowest, names)], 3),
            section('Highest', [_rows(found, highest, names)], 3),
            section('Confused most often', [_pairs(found, names)], 3),
        ]
    return section('Accuracy by class', parts)


def _rows(
    found: Confusion, classes: Iterable[int], names: Sequence[str]
) -> str:
    """Returns the table of some classes."""
    images, accuracy = found.images, found.accuracy
    taken: dict[int, tuple[int, int]] = {}
    for true, predicted, count in found.confused(len(found.counts)):
        taken.setdefault(true, (predicted, count))
    rows = {}
    for c in classes:
        row = {'images': f'{images[c]:,}', 'accuracy': f'{accuracy[c]:.3f}'}
        if c in taken:
            other, count = taken[c]
            text = f'{names[other]} ({count:,} times)'
            row['most often taken for'] = text
        rows[names[c]] = row
    return table(rows, _COLUMNS, 'class')


def _pairs(found: Confusion, names: Sequence[str]) -> str:
    """Returns the table of the pairs that are confused most."""
    images, rows = found.images, {}
    for true, predicted, count in found.confused(2 * _EXTREMES):
        share = f'{count / images[true]:.3f}'
        rows[f'{names[true]} taken for {names[predicted]}'] = {
            'images': f'{count:,}',
            'share of the class': share,
        }
    return table(rows, ('images', 'share of the class'), 'classes')


def _matrix(found: Confusion, names: Sequence[str]) -> list[str]:
    """Returns the confusion matrix."""
    shown = shade_table(
        dict(zip(names, found.matrix.tolist(), strict=True)),
        names,
        lambda row, column: 120 * (row == column),
    )
    words = 'Rows: true class; columns: predicted class.'
    return [section('Confusion matrix', [paragraph(words), shown], 3)]


SECTIONS = Sections(summary=summary, details=details)
