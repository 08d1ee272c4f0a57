"""The report section of a vision transformer: accuracy of the classes."""

from collections.abc import Iterable

import numpy as np

from moe.report.markup import paragraph, section, shade_table, table
from moe.report.page import Sections
from moe.report.run import Run
from moe.workloads.vision.confusion import Confusion

# Of more classes the extremes are shown, and no matrix.
_MATRIX = 20
_EXTREMES = 10
_COLUMNS = ('images', 'accuracy', 'most often taken for')


def details(run: Run) -> list[str]:
    """Returns the accuracy of the classes of the validation images, HTML."""
    path = run.workdir / 'confusion.json'
    if not path.exists():
        return []
    return [_classes(Confusion.read(path))]


def _classes(found: Confusion) -> str:
    accuracy = found.accuracy
    there = np.flatnonzero(found.images)
    if not len(there):
        return ''
    order = there[np.argsort(accuracy[there], kind='stable')]
    worst, best = order[0], order[-1]
    words = (
        f'Share of the validation images of a class that are predicted to be '
        f'of it: {np.mean(accuracy[there]):.3f} in the mean over '
        f'{len(there)} classes, least {accuracy[worst]:.3f} (class {worst}), '
        f'most {accuracy[best]:.3f} (class {best}).'
    )
    parts = [paragraph(words)]
    if found.num_classes <= _MATRIX:
        parts += [_rows(found, there), *_matrix(found)]
    else:
        parts += [
            section('Lowest', [_rows(found, order[:_EXTREMES])], 3),
            section('Highest', [_rows(found, order[: -_EXTREMES - 1 : -1])], 3),
            section('Confused most often', [_pairs(found)], 3),
        ]
    return section('Accuracy by class', parts)


def _rows(found: Confusion, classes: Iterable[int]) -> str:
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
            row['most often taken for'] = f'{other} ({count:,} times)'
        rows[str(c)] = row
    return table(rows, _COLUMNS, 'class')


def _pairs(found: Confusion) -> str:
    """Returns the table of the pairs that are confused most."""
    images, rows = found.images, {}
    for true, predicted, count in found.confused(2 * _EXTREMES):
        share = f'{count / images[true]:.3f}'
        rows[f'{true} taken for {predicted}'] = {
            'images': f'{count:,}',
            'share of the class': share,
        }
    return table(rows, ('images', 'share of the class'), 'classes')


def _matrix(found: Confusion) -> list[str]:
    """Returns the confusion matrix."""
    classes = [str(c) for c in range(found.num_classes)]
    shown = shade_table(
        dict(zip(classes, found.matrix.tolist(), strict=True)),
        classes,
        lambda row, column: 120 * (row == column),
    )
    words = 'Rows: true class; columns: predicted class.'
    return [section('Confusion matrix', [paragraph(words), shown], 3)]


SECTIONS = Sections(details=details)
