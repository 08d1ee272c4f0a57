"""Report sections of a language model: tokens by expert, and a sample."""

import html

import numpy as np

from moe.paths import reading
from moe.report.markup import table
from moe.report.page import Sections
from moe.report.run import Run


def details(run: Run) -> list[str]:
    """Returns the validation text coloured by expert, and the sample, HTML."""
    text = _sample(run)
    shown = f'<h3>Sample</h3><pre>{html.escape(text)}</pre>' if text else ''
    return [_validation_sets(run), _tokens_by_expert(run), shown]


def summary(run: Run) -> list[str]:
    """Returns the lines of the sample, indented."""
    text = _sample(run)
    lines = ['    ' + line for line in text.splitlines()]
    return ['sample:', *lines] if text else []


def _validation_sets(run: Run) -> str:
    """Returns a table of the metrics of each named validation set."""
    rows: dict[str, dict[str, str]] = {}
    for name, (place, metric) in run.matches('eval/([^/]+)/([^/]+)').items():
        value = run.last(name)
        if place != 'moe' and value is not None:
            label = metric.replace('_per_', '/').replace('_', ' ')
            rows.setdefault(place, {})[label] = f'{value:.4f}'
    if not rows:
        return ''
    columns = list(dict.fromkeys(m for row in rows.values() for m in row))
    return '<h3>Validation sets</h3>' + table(rows, columns, 'set')


def _sample(run: Run) -> str:
    path = run.workdir / 'sample.txt'
    if not path.exists():
        return ''
    with reading(path):
        return path.read_text(encoding='utf-8')


def _tokens_by_expert(run: Run) -> str:
    """Colours each token of a validation text by its first-choice expert."""
    path = run.workdir / 'routing.npz'
    if not path.exists():
        return ''
    with reading(path), path.open('rb') as file, np.load(file) as saved:
        texts, first = saved['texts'], saved['first']
    loads = run.statistics().get('load', {})
    counts = [run.metrics[m].values.shape[-1] for m in loads.values()]
    count = max([int(first.max()) + 1, *counts])
    colours = [_colour(e, count) for e in range(count)]
    legend = ' '.join(
        f'<span style="background:{c}">&nbsp;{e}&nbsp;</span>'
        for e, c in enumerate(colours)
    )
    blocks = [
        '<h3>Tokens by expert</h3><p>Validation text; the colour is the '
        f'first-choice expert: {legend}</p>'
    ]
    for place, chosen in zip(loads, first, strict=True):
        text = ''.join(
            f'<span style="background:{colours[e]}">{_escaped(c)}</span>'
            for c, e in zip(texts, chosen, strict=True)
        )
        label = place.replace('layer_', 'Layer ')
        blocks.append(
            f'<p>{html.escape(label)}</p><pre class="map">{text}</pre>'
        )
    return ''.join(blocks)


def _colour(index: int, count: int) -> str:
    return f'hsl({360 * index / count:.0f} 80% {72 + 12 * (index % 2)}%)'


def _escaped(character: str) -> str:
    return html.escape(character) if character else '&middot;'


SECTIONS = Sections(summary, details)
