"""`python -m moe.evaluate --workdir=DIR`: evaluates a trained run.

`--config.data.NAME=VALUE` evaluates it on other data. The results are a file of
their own, `evaluations/step-N.json`; nothing is overwritten. `--capacities`
evaluates it at several capacities, `--few_shot` what the head reads.
"""

import functools
import json
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from moe.command_line import command, define_plugins, read_overrides
from moe.config import ConfigError
from moe.training.evaluation import metrics_of, routing_of, rows_of
from moe.workloads.opened import Opened, open_run
from moe.workloads.vision import capacity_curve, few_shot

FOLDER = 'evaluations'
# Of the statistics of a layer, those that are printed.
_COLUMNS = ('load_max', 'load_cv', 'entropy', 'dropped')

_FLAGS = flags.FlagValues()
flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=_FLAGS)
flags.DEFINE_string(
    'step',
    None,
    "Step of the checkpoint, or 'best' for that with the best --metric; None "
    'is the newest.',
    flag_values=_FLAGS,
)
flags.DEFINE_string(
    'metric',
    None,
    "Metric of --step=best, such as eval/loss; None is the workload's first.",
    flag_values=_FLAGS,
)
flags.DEFINE_list(
    'capacities',
    [],
    'Capacity factors, such as 0.25,0.5,1: a run on images is evaluated at '
    'each, with and without batch priority.',
    flag_values=_FLAGS,
)
flags.DEFINE_list(
    'few_shot',
    [],
    'Numbers of images a class, such as 5,10, of which a linear probe of a run '
    'on images is fitted.',
    flag_values=_FLAGS,
)
flags.DEFINE_integer(
    'draws',
    5,
    'Draws of the images of --few_shot.',
    lower_bound=1,
    flag_values=_FLAGS,
)
flags.DEFINE_float(
    'l2',
    few_shot.L2,
    'Regularisation of the probe of --few_shot.',
    lower_bound=1e-9,
    flag_values=_FLAGS,
)
flags.DEFINE_integer(
    'max_batches',
    None,
    'The most validation batches of an evaluation; None is all.',
    lower_bound=1,
    flag_values=_FLAGS,
)
define_plugins(_FLAGS)


def evaluate_run(
    workdir: pathlib.Path,
    step: int | str | None = None,
    changes: Sequence[tuple[str, Any]] = (),
    *,
    metric: str | None = None,
    plugins: Sequence[str] = (),
) -> dict[str, Any]:
    """Evaluates a checkpoint of a run, on its own validation set or another.

    Args:
      workdir: the run's folder; nothing is written there.
      step: see `open_run`.
      changes: see `open_run`.
      metric: see `open_run`.
      plugins: see `open_run`.

    Returns:
      `step`, `time`, the `changes`, the description of the `data`, the
      `metrics` by name, as a run logs them, and the workload's details.

    Raises:
      ConfigError: see `open_run`.
      Damaged: see `open_run`.
    """
    opened = open_run(workdir, step, changes, metric=metric, plugins=plugins)
    return results_of(opened)


def results_of(opened: Opened, max_batches: int | None = None) -> dict:
    """Evaluates a checkpoint that is open; see `evaluate_run`.

    Args:
      opened: the checkpoint.
      max_batches: the most validation batches; None for all.
    """
    workload, results = opened.workload, opened.evaluated(None, max_batches)
    metrics = metrics_of(workload, results) | routing_of(workload, results)
    return {
        **opened.facts,
        'metrics': {f'eval/{name}': v for name, v in metrics.items()},
        **workload.eval_details(rows_of(results)),
    }


def against_capacity(
    opened: Opened,
    factors: Sequence[float],
    max_batches: int | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint at several capacities, of images.

    Args:
      opened: the checkpoint.
      factors: capacity factors, each taken with and without batch priority.
      max_batches: the most validation batches; None for all.

    Returns:
      The facts of the checkpoint, and those of
      `moe.workloads.vision.capacity_curve.measure`.

    Raises:
      ConfigError: for a run of another workload, or one without a capacity.
    """
    if opened.config.workload != 'vision':
        allowed = 'absent: it is for a run on images'
        raise ConfigError('--capacities', list(factors), allowed)
    found = capacity_curve.measure(
        opened.config,
        factors,
        lambda workload: opened.evaluated(workload, max_batches),
    )
    return {**opened.facts, **found}


def write(
    workdir: pathlib.Path, found: Mapping[str, Any], kind: str = ''
) -> pathlib.Path:
    """Writes the results of an evaluation under a name that is free.

    Args:
      workdir: the run's folder.
      found: results of `evaluate_run`, or of another kind.
      kind: how the name begins, such as 'capacity-'.

    Returns:
      The path, `evaluations/step-N.json` or `evaluations/step-N-2.json`.
    """
    folder = workdir / FOLDER
    folder.mkdir(exist_ok=True)
    name, count = f'{kind}step-{found["step"]}', 1
    while True:
        path = folder / (
            f'{name}-{count}.json' if count > 1 else f'{name}.json'
        )
        try:
            with path.open('x', encoding='utf-8') as file:
                file.write(json.dumps(found, indent=2) + '\n')
            return path
        except FileExistsError:
            count += 1


def lines(found: Mapping[str, Any]) -> list[str]:
    """Returns what is printed of an evaluation: metrics, layers, classes.

    Args:
      found: results of `evaluate_run`.
    """
    metrics, layers = found['metrics'], dict[str, dict[str, float]]()
    told = []
    for name, value in metrics.items():
        _, _, rest = name.partition('eval/')
        if not rest.startswith('moe/'):
            told.append(f'{rest} {value:.4f}')
        elif not isinstance(value, list):
            layer, _, statistic = rest[len('moe/') :].rpartition('/')
            layers.setdefault(layer, {})[statistic] = value
    rows = [
        f'  {layer}: '
        + ', '.join(f'{n} {stats[n]:.3f}' for n in _COLUMNS if n in stats)
        for layer, stats in layers.items()
    ]
    classes = found.get('classes', {}).get('accuracy', [])
    if known := [value for value in classes if value is not None]:
        mean = sum(known) / len(known)
        span = f'{min(known):.4f} to {max(known):.4f}'
        rows.append(f'  classes: accuracy {span}, mean {mean:.4f}')
    return [f'step {found["step"]}: {", ".join(told)}', *rows]


@command('moe.evaluate')
def main(argv: list[str]) -> int:
    """Evaluates, prints, and writes the results; returns the exit code."""
    changes = read_overrides(_FLAGS, argv)
    if not _FLAGS.workdir:
        raise ConfigError('--workdir', _FLAGS.workdir, 'given')
    workdir, max_batches = pathlib.Path(_FLAGS.workdir), _FLAGS.max_batches
    factors = numbers(_FLAGS.capacities, '--capacities', float)
    shots = numbers(_FLAGS.few_shot, '--few_shot', int)
    if factors and shots:
        allowed = 'absent: --capacities is another evaluation'
        raise ConfigError('--few_shot', shots, allowed)
    given = {'metric': _FLAGS.metric, 'plugins': _FLAGS.plugins}
    if shots:
        given['load'] = functools.partial(_images, shots)
    opened = open_run(workdir, _FLAGS.step, changes, **given)
    if shots:
        found = few_shot.measure(
            opened, shots, _FLAGS.draws, _FLAGS.l2, max_batches
        )
        told, kind = few_shot.lines(found), 'few-shot-'
    elif factors:
        found = against_capacity(opened, factors, max_batches)
        told, kind = capacity_curve.lines(found), 'capacity-'
    else:
        found = results_of(opened, max_batches)
        told, kind = lines(found), ''
    if max_batches:
        found['max_batches'] = max_batches
    print('\n'.join(told))
    print(f'written: {write(workdir, found, kind)}')
    return 0


def _images(shots: Sequence[int], workload: Any) -> Any:
    """Reads images, whose classes may be others than the model's."""
    if not hasattr(workload, 'load_images'):
        allowed = 'absent: it is for a run on images'
        raise ConfigError('--few_shot', shots, allowed)
    return workload.load_images()


def numbers(texts: Sequence[str], flag: str, kind: type) -> list[Any]:
    """Reads the numbers of a flag, all of them above 0.

    Args:
      texts: one text a number.
      flag: name of the flag, for messages.
      kind: int or float.

    Raises:
      ConfigError: for anything else.
    """
    try:
        found = [kind(text) for text in texts]
    except ValueError:
        found = [0]
    if not all(0 < number < math.inf for number in found):
        words = 'whole numbers' if kind is int else 'numbers'
        allowed = f'{words} above 0, with commas between'
        raise ConfigError(flag, ','.join(texts), allowed)
    return found


if __name__ == '__main__':
    sys.exit(main(sys.argv))
