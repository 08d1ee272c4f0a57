"""A static page about one run, or several beside each other."""

import functools
import html
import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from moe.config import ConfigError
from moe.metrics import read_metrics
from moe.report import plots
from moe.report.markup import (
    figure,
    page,
    shade_table,
    table,
)
from moe.workloads.multitask import report as tasks

# What a task's evaluation comes to.
_RESULTS = {'eval/bits_per_byte': 'bits/byte', 'eval/accuracy': 'accuracy'}
_LAYER_METRICS = {
    'entropy': 'entropy (nats)',
    'dropped': 'share of assignments dropped',
    'max_violation': 'max load / mean load - 1',
}


class Run:
    """What a run left in its folder.

    Args:
      workdir: the folder.

    Raises:
      ConfigError: if it holds no run with metrics.
    """

    def __init__(self, workdir: pathlib.Path):
        for name in ('config.json', 'metrics.jsonl'):
            if not (workdir / name).exists():
                allowed = f'the folder of a run (it has no {name})'
                raise ConfigError('workdir', str(workdir), allowed)
        self.workdir = workdir
        self.config = json.loads((workdir / 'config.json').read_text())
        self.metrics = read_metrics(workdir / 'metrics.jsonl')
        if not self.metrics:
            allowed = 'the folder of a run that has logged a step'
            raise ConfigError('workdir', str(workdir), allowed)
        path = workdir / 'results.json'
        self.test = json.loads(path.read_text()) if path.exists() else {}
        names = {name for line in self.metrics for name in line}
        self.layers = sorted(
            int(name.split('_')[1].split('/')[0])
            for name in names
            if re.fullmatch('moe/layer_[0-9]+/load', name)
        )

    def last(self, name: str) -> float | None:
        """The newest value of a metric."""
        _, values = plots.series(self.metrics, name)
        return float(values[-1]) if len(values) else None


def summary(workdir: pathlib.Path) -> str:
    """The result of a run in a few lines of text, its sample included."""
    run = Run(workdir)
    found = [
        f'{_number(run, name)} {label}'
        for name, label in _RESULTS.items()
        if run.last(name) is not None
    ]
    loss = _number(run, 'eval/loss')
    lines = [
        f'validation: {", ".join([*found, f"loss {loss}"])}',
        *tasks.summary(run.metrics, run.test),
    ]
    text = _sample(run)
    if text:
        lines += ['sample:', *('    ' + line for line in text.splitlines())]
    return '\n'.join(lines)


def write(
    workdir: pathlib.Path, others: Sequence[pathlib.Path] = ()
) -> pathlib.Path:
    """Writes `report/index.html` of a run, compared with others if given.

    Args:
      workdir: the run's folder; the page goes there.
      others: folders of runs to compare with.

    Returns:
      The page's path.

    Raises:
      ConfigError: if a folder holds no run.
    """
    runs = {path: Run(path) for path in (workdir, *others)}
    names = _short_names(list(runs))
    labelled = {names[p]: run for p, run in runs.items()}
    parts = [_table(labelled), *_comparison(labelled)]
    for label, run in labelled.items():
        heading = f'<h2>{html.escape(label)}</h2>' if others else ''
        parts += [heading, *_details(run)]
    folder = workdir / 'report'
    folder.mkdir(exist_ok=True)
    text = page(' | '.join(labelled), parts)
    (folder / 'index.html').write_text(text)
    return folder / 'index.html'


def _short_names(paths: list[pathlib.Path]) -> dict[pathlib.Path, str]:
    """Folder names, with as many parents as tell them apart."""
    for depth in range(1, 20):
        names = ['/'.join(p.resolve().parts[-depth:]) for p in paths]
        if len(set(names)) == len(paths):
            return dict(zip(paths, names, strict=True))
    return {p: str(p) for p in paths}


def _table(runs: Mapping[str, Run]) -> str:
    columns: dict[str, Callable[[Run], str]] = {
        'steps': lambda r: f'{r.metrics[-1]["step"]}',
        **{
            f'validation {label}': functools.partial(_number, name=name)
            for name, label in _RESULTS.items()
            if any(run.last(name) is not None for run in runs.values())
        },
        'validation loss': lambda r: _number(r, 'eval/loss'),
        'train loss': lambda r: _number(r, 'train/loss'),
        'speed': _speed,
        'largest load / uniform': lambda r: _largest_load(r),
    }
    rows = {
        label: {name: cell(run) for name, cell in columns.items()}
        for label, run in runs.items()
    }
    return table(rows, list(columns), 'run')


def _number(run: Run, name: str, form: str = '.4f') -> str:
    value = run.last(name)
    return '-' if value is None else format(value, form)


def _speed(run: Run) -> str:
    for unit in ('tokens', 'examples'):
        speed = run.last(f'train/{unit}_per_second')
        if speed is not None:
            return f'{speed:,.0f} {unit}/s'
    return '-'


def _largest_load(run: Run) -> str:
    loads = [run.last(f'moe/layer_{i}/load_max') for i in run.layers]
    found = [load for load in loads if load is not None]
    return f'{max(found):.2f}' if found else '-'


def _comparison(runs: Mapping[str, Run]) -> list[str]:
    several = len(runs) > 1
    metrics = {k if several else '': r.metrics for k, r in runs.items()}
    split = {'train/loss': 'train', 'eval/loss': 'validation'}
    auxiliary = sorted(
        {
            name
            for run in runs.values()
            for line in run.metrics
            for name in line
            if name in ('train/load_balance', 'train/router_z')
        }
    )
    figures = [
        figure(
            plots.curves(metrics, split, 'loss (nats)'),
            'Loss, without the auxiliary terms.',
        )
    ]
    for name in auxiliary:
        figures.append(
            figure(
                plots.curves(metrics, {name: ''}, name.split('/')[1]),
                f'{name.split("/")[1]}, unweighted, mean over the layers.',
            )
        )
    return figures


def _details(run: Run) -> list[str]:
    parts = [
        figure(
            plots.expert_map(
                run.metrics,
                {f'layer {i}': f'moe/layer_{i}/load' for i in run.layers},
                'load / uniform share',
                plots.LOADS,
            ),
            'Load of every expert over time: white is the uniform share, red '
            'more, blue less.',
        )
    ]
    for name, label in _LAYER_METRICS.items():
        layers = {f'moe/layer_{i}/{name}': f'layer {i}' for i in run.layers}
        image = plots.curves({'': run.metrics}, layers, label)
        parts.append(figure(image, f'{name} by mixture layer.'))
    parts += [*tasks.details(run.metrics, run.test)]
    parts += [_token_map(run), _confusion(run)]
    text = _sample(run)
    if text:
        parts.append(f'<h3>Sample</h3><pre>{html.escape(text)}</pre>')
    config = html.escape(json.dumps(run.config, indent=2))
    parts.append(
        f'<details><summary>Config</summary><pre>{config}</pre></details>'
    )
    return parts


def _sample(run: Run) -> str:
    path = run.workdir / 'sample.txt'
    return path.read_text() if path.exists() else ''


def _token_map(run: Run) -> str:
    """Validation text coloured by the first-choice expert of each byte."""
    path = run.workdir / 'routing.npz'
    if not path.exists():
        return ''
    with np.load(path) as saved:
        tokens, first = saved['tokens'], saved['first']
    experts = run.config['model']['moe']['num_experts']
    colours = [_colour(e, experts) for e in range(experts)]
    legend = ' '.join(
        f'<span style="background:{c}">&nbsp;{e}&nbsp;</span>'
        for e, c in enumerate(colours)
    )
    blocks = [f'<h3>Who reads what</h3><p>First-choice expert: {legend}</p>']
    for layer, chosen in zip(run.layers, first, strict=True):
        text = ''.join(
            f'<span style="background:{colours[e]}">{_character(t)}</span>'
            for t, e in zip(tokens, chosen, strict=True)
        )
        blocks.append(f'<p>Layer {layer}</p><pre class="map">{text}</pre>')
    return ''.join(blocks)


def _confusion(run: Run) -> str:
    """Validation images by class and by what they were taken for."""
    path = run.workdir / 'confusion.json'
    if not path.exists():
        return ''
    table = json.loads(path.read_text())
    classes = [str(c) for c in range(len(table))]
    return (
        '<h3>What is taken for what</h3><p>Rows: the class; columns: the '
        'answer.</p>'
        + shade_table(
            dict(zip(classes, table, strict=True)),
            classes,
            lambda row, column: 120 * (row == column),
        )
    )


def _colour(index: int, count: int) -> str:
    return f'hsl({360 * index / count:.0f} 80% {72 + 12 * (index % 2)}%)'


def _character(token: Any) -> str:
    if token in (9, 10):
        return chr(token)
    return html.escape(chr(token)) if 32 <= token < 127 else '&middot;'
