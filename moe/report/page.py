"""The report page of one run, or of several for comparison."""

import functools
import hashlib
import html
import json
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from moe import files
from moe.paths import reading
from moe.report import plots, statistics
from moe.report.markup import figure, page, table
from moe.report.run import Run
from moe.report.same_data import different_data

# Metrics `train/NAME` that are no auxiliary losses.
_NO_LOSS = frozenset(
    {'grad_norm', 'learning_rate', 'loss', 'objective', 'param_norm'}
)


class Sections(NamedTuple):
    """What a workload adds to the summary and the page of its runs.

    Attributes:
      summary: a function from a run to lines of text.
      details: a function from a run to parts of the page, HTML.
    """

    summary: Callable[[Run], Sequence[str]] = lambda run: ()
    details: Callable[[Run], Sequence[str]] = lambda run: ()


SectionsOf = Callable[[Run], Sections]


def no_sections(run: Run) -> Sections:
    """Returns sections that add nothing to any run."""
    del run
    return Sections()


def summary(
    workdir: pathlib.Path, sections_of: SectionsOf = no_sections
) -> str:
    """Returns the results of a run in a few lines of text.

    Args:
      workdir: the run's folder.
      sections_of: a function from a run to the sections of its workload.

    Returns:
      A line of the newest evaluation, then the lines of the workload.

    Raises:
      ConfigError: if the folder holds no run.
    """
    run = Run(workdir)
    with reading(workdir):
        results = [
            f'{_number(run, name)} {label}'
            for name, label in _evaluations(run).items()
        ]
        loss = f'loss {_number(run, "eval/loss")}'
        return '\n'.join(
            [
                f'validation: {", ".join([*results, loss])}',
                *sections_of(run).summary(run),
            ]
        )


def write(
    workdir: pathlib.Path,
    others: Sequence[pathlib.Path] = (),
    sections_of: SectionsOf = no_sections,
) -> pathlib.Path:
    """Writes the page of a run, or of its comparison with others.

    It is `report/index.html`, or `report/with-OTHERS.html`.

    It plots all logged evaluation metrics, auxiliary losses, statistics of
    mixture layers and router states, those of plugins included.

    Args:
      workdir: the run's folder; the page goes there.
      others: folders of runs to compare with.
      sections_of: a function from a run to the sections of its workload.

    Returns:
      The page's path.

    Raises:
      ConfigError: if a folder holds no run.
    """
    runs = {path: Run(path) for path in (workdir, *others)}
    names = _short_names(list(runs))
    labelled = {names[p]: run for p, run in runs.items()}
    with reading(workdir):
        folders = {label: run.workdir for label, run in labelled.items()}
        note = html.escape(different_data(folders))
        parts = [f'<p>{note}</p>'] if note else []
        parts += [_table(labelled), *_comparison(labelled)]
    for label, run in labelled.items():
        if others:
            parts.append(f'<h2>{html.escape(label)}</h2>')
        with reading(run.workdir):
            parts += statistics.figures(run)
            parts += sections_of(run).details(run)
            parts.append(_config(run))
    path = workdir / 'report' / _file_name(list(labelled)[1:])
    path.parent.mkdir(exist_ok=True)
    text = page(' | '.join(labelled), parts)
    files.write_text(path, text)
    return path


def _file_name(others: Sequence[str]) -> str:
    """Returns the name of the page that compares a run with others."""
    if not others:
        return 'index.html'
    name = '+'.join(others)
    plain = re.sub(r'[^\w.+=,-]', '-', name, flags=re.ASCII)
    if plain != name or len(plain) > 100:
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
        plain = f'{plain[:100]}-{digest}'
    return f'with-{plain}.html'


def _short_names(paths: list[pathlib.Path]) -> dict[pathlib.Path, str]:
    """Returns folder names, with as many parents as make them unique."""
    for depth in range(1, 20):
        names = ['/'.join(p.resolve().parts[-depth:]) for p in paths]
        if len(set(names)) == len(paths):
            return dict(zip(paths, names, strict=True))
    return {p: str(p) for p in paths}


def _evaluations(run: Run) -> dict[str, str]:
    """Returns the labels of the evaluation metrics of a whole run, by name."""
    found = {n: label for n, (label,) in run.matches('eval/([^/]+)').items()}
    return {
        name: label.replace('_per_', '/').replace('_', ' ')
        for name, label in found.items()
        if label != 'loss'
    }


def _table(runs: Mapping[str, Run]) -> str:
    results: dict[str, str] = {}
    for run in runs.values():
        results |= _evaluations(run)
    columns: dict[str, Callable[[Run], str]] = {
        'steps': lambda run: str(run.steps),
        **{
            f'validation {label}': functools.partial(_number, name=name)
            for name, label in results.items()
        },
        'validation loss': lambda run: _number(run, 'eval/loss'),
        'train loss': lambda run: _number(run, 'train/loss'),
        'speed': _speed,
        'largest load / uniform': _largest_load,
    }
    rows = {
        label: {name: cell(run) for name, cell in columns.items()}
        for label, run in runs.items()
    }
    return table(rows, list(columns), 'run')


def _number(run: Run, name: str) -> str:
    value = run.last(name)
    return '-' if value is None else f'{value:.4f}'


def _speed(run: Run) -> str:
    for name, (unit,) in run.matches('train/(.+)_per_second').items():
        return f'{run.last(name):,.0f} {unit}/s'
    return '-'


def _largest_load(run: Run) -> str:
    loads = [run.last(name) for name in run.matches('moe/layer_.+/load_max')]
    found = [load for load in loads if load is not None]
    return f'{max(found):.2f}' if found else '-'


def _comparison(runs: Mapping[str, Run]) -> list[str]:
    """Returns curves of losses and evaluation metrics, a line for each run."""
    several = len(runs) > 1
    metrics = {k if several else '': r.metrics for k, r in runs.items()}
    split = {'train/loss': 'train', 'eval/loss': 'validation'}
    figures = [
        figure(
            plots.curves(metrics, split, 'loss (nats)'),
            'Loss, without the auxiliary terms.',
        )
    ]
    shown: dict[str, tuple[dict[str, str], str]] = {}
    for run in runs.values():
        for name, label in _evaluations(run).items():
            of_training = name.replace('eval/', 'train/')
            caption = f'{label} in training and validation.'
            lines = {of_training: 'train', name: 'validation'}
            if of_training not in run.metrics:
                lines, caption = {name: ''}, f'Validation {label}.'
            shown[label] = lines, caption[0].upper() + caption[1:]
        for name, label in _auxiliary(run).items():
            caption = f'{label}, unweighted, mean over the mixture layers.'
            shown[label] = {name: ''}, caption
    for label, (lines, caption) in shown.items():
        figures.append(figure(plots.curves(metrics, lines, label), caption))
    return figures


def _auxiliary(run: Run) -> dict[str, str]:
    """Returns the labels of the auxiliary losses, by metric.

    Mixtures log all losses; those without a coefficient that are constant are
    omitted.
    """
    found = {n: label for n, (label,) in run.matches('train/([^/]+)').items()}
    weighted = {n for n, v in run.config.get('losses', {}).items() if v}
    return {
        name: label
        for name, label in found.items()
        if label not in _NO_LOSS
        and f'eval/{label}' not in run.metrics
        and not label.endswith('_per_second')
        and (label in weighted or not plots.constant(run.metrics[name].values))
    }


def _config(run: Run) -> str:
    config = html.escape(json.dumps(run.config, indent=2))
    return f'<details><summary>Config</summary><pre>{config}</pre></details>'
