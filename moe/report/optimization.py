"""Curves of the optimizer: learning rate, norms, updates left out."""

from collections.abc import Mapping

from moe.report import plots
from moe.report.markup import figure, section
from moe.report.results import columns
from moe.report.run import Run

Runs = Mapping[str, Run]


def optimization(runs: Runs) -> str:
    """Returns the section of the optimizer.

    Args:
      runs: the runs by label.
    """
    pictures = [
        _learning_rate(runs),
        _norm(runs, 'grad_norm', 'Norm of the gradient before clipping'),
        _norm(runs, 'param_norm', 'Norm of the parameters'),
        _skipped(runs),
    ]
    return section('Optimization', pictures)


def _learning_rate(runs: Runs) -> str:
    image = plots.curves(
        columns(runs), {'train/learning_rate': ''}, 'learning rate'
    )
    return figure(image, 'Learning rate of each step.')


def _norm(runs: Runs, name: str, title: str) -> str:
    """Draws a norm, of a single run by part of the model too."""
    lines, caption = {f'train/{name}': ''}, f'{title}.'
    if len(runs) == 1:
        (run,) = runs.values()
        found = run.matches(f'train/{name}/(.+)')
        parts = {metric: part for metric, (part,) in found.items()}
        if parts:
            lines = {f'train/{name}': 'all'} | parts
            caption = f'{title}, of all and by part of the model.'
    image = plots.curves(columns(runs), lines, 'norm', logarithmic=True)
    return figure(image, caption)


def _skipped(runs: Runs) -> str:
    name = 'train/skipped'
    some = [r for r in runs.values() if r.last(name)]
    if not some:
        return ''
    image = plots.curves(columns(runs), {name: ''}, 'updates left out')
    return figure(
        image,
        'Updates left out so far: a loss not finite, or too large a gradient.',
    )
