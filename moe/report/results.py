"""Curves of losses and of evaluation metrics, a line for each run."""

from collections.abc import Mapping

from moe.report import plots
from moe.report.markup import figure, section
from moe.report.run import Run

Runs = Mapping[str, Run]

# Metrics `train/NAME` that are no auxiliary losses.
_NO_LOSS = frozenset(
    {
        'grad_norm',
        'learning_rate',
        'loss',
        'objective',
        'param_norm',
        'skipped',
        'skipped_in_a_row',
    }
)


def results(runs: Runs) -> str:
    """Returns the section of losses and evaluation metrics.

    Args:
      runs: the runs by label.
    """
    return section('Results', [_loss(runs), *_evaluations(runs)])


def auxiliary_losses(runs: Runs) -> str:
    """Returns the section of the auxiliary losses.

    Args:
      runs: the runs by label.
    """
    found: dict[str, str] = {}
    for run in runs.values():
        found |= _auxiliary(run)
    pictures = [
        figure(
            plots.curves(columns(runs), {name: ''}, words(label)),
            f'{words(label).capitalize()}, mean over {_over(label)}; '
            f'{_coefficient(runs, label)}.',
        )
        for name, label in found.items()
    ]
    return section('Auxiliary losses', pictures)


def _coefficient(runs: Runs, loss: str) -> str:
    """Returns the coefficient of a loss in words."""
    found = {label: _weight(run, loss) for label, run in runs.items()}
    if len(set(found.values())) > 1:
        each = ', '.join(f'{value:g} in {k}' for k, value in found.items())
        return f'its coefficient in the objective is {each}'
    value = next(iter(found.values()))
    if not value:
        return 'not in the objective'
    return f'its coefficient in the objective is {value:g}'


def _over(loss: str) -> str:
    """Returns what a loss is the mean over, in words."""
    of_outputs = loss == 'output_z' or loss.startswith('mtp_')
    return 'the targets' if of_outputs else 'the mixture layers'


def _weight(run: Run, loss: str) -> float:
    """Returns the coefficient of a loss in the objective of a run."""
    mtp = run.config.get('model', {}).get('mtp')
    if mtp and loss.startswith('mtp_'):
        return mtp['weight'] / mtp['depth']
    return run.config.get('losses', {}).get(loss, 0.0)


def labels(run: Run) -> dict[str, str]:
    """Returns the labels of the evaluation metrics of a whole run, by name.

    Args:
      run: a run of any workload.
    """
    found = {n: label for n, (label,) in run.matches('eval/([^/]+)').items()}
    return {
        name: words(label) for name, label in found.items() if label != 'loss'
    }


def words(name: str) -> str:
    """Returns the name of a metric in words: bits/byte of bits_per_byte."""
    return name.replace('_per_', '/').replace('_', ' ')


def columns(runs: Runs) -> dict[str, plots.Columns]:
    """Returns the metrics of runs as `plots.curves` takes them.

    Args:
      runs: the runs by label; a single one has none in the picture.
    """
    several = len(runs) > 1
    return {k if several else '': run.metrics for k, run in runs.items()}


def _loss(runs: Runs) -> str:
    split = {'train/loss': 'train', 'eval/loss': 'validation'}
    return figure(
        plots.curves(columns(runs), split, 'loss (nats)'),
        'Loss, without the auxiliary terms.',
    )


def _evaluations(runs: Runs) -> list[str]:
    shown: dict[str, tuple[dict[str, str], str]] = {}
    for run in runs.values():
        for name, label in labels(run).items():
            of_training = name.replace('eval/', 'train/')
            caption = f'{label} in training and validation.'
            lines = {of_training: 'train', name: 'validation'}
            if of_training not in run.metrics:
                lines, caption = {name: ''}, f'Validation {label}.'
            shown[label] = lines, caption[0].upper() + caption[1:]
    return [
        figure(plots.curves(columns(runs), lines, label), caption)
        for label, (lines, caption) in shown.items()
    ]


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
