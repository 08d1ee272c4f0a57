"""`python -m launch.results DIR [--metric=eval/loss]`: results of a sweep.

Prints a table and writes `DIR/results.json` and the page `DIR/results.html`;
the sweep need not be complete. Of several metrics, with commas between, the
first decides; a pattern such as `moe/*/dropped` is the mean of its matches.
"""

import fnmatch
import json
import math
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import flags

from launch import manifest
from launch.trials import labels, text_of, value_of
from moe import files
from moe.command_line import command, define_plugins, read_flags
from moe.config import ConfigError
from moe.config.plugins import import_plugins_of_run
from moe.metrics import read_metrics
from moe.report.same_data import different_data
from moe.training.eval_metrics import is_higher_better
from moe.workloads import registry

Results = dict[str, Any]

DEFAULT = ('eval/loss',)  # every workload has it


def read(
    workdir: pathlib.Path, metrics: Sequence[str] = DEFAULT
) -> tuple[Results, dict[str, list[dict[str, Any]]]]:
    """Reads what the trials of a sweep have logged so far.

    A trial's value is its newest; only finished trials are compared and
    averaged.

    Args:
      workdir: folder of the sweep.
      metrics: names or patterns; the first decides which is best.

    Returns:
      JSON: `metrics`, `better` (lower or higher), `fields` (label by dotted
      name), `trials` (`values` of the fields, `step`, `steps`, `done`, and
      `metrics`, None where there is none) by name, `groups` (of trials that are
      done and differ only in the seed: `values`, `trials`, and `metrics` with
      `n`, `mean` and `std`, the sample standard deviation, None of one), and
      the `best` trial and the index of the `best_group`, None without any;
      `note` if they are on different data.
      And the metrics of every trial that has some, with the patterns' means.

    Raises:
      ConfigError: for a folder without a sweep, or a metric that no trial has.
    """
    sweep = manifest.read(workdir)
    logged = {
        trial.name: read_metrics(trial.folder / 'metrics.jsonl')
        for trial in sweep.trials
        if trial.step()
    }
    for lines in logged.values():
        for line in lines:
            line |= _means(line, metrics)
    _check_known(metrics, logged)
    # Of a trial: the base may be valid only with a trial's changes.
    workload = registry.read_config(sweep.trials[0].plain).make_workload()
    short = labels(sweep.fields)
    values = {
        trial.name: {
            field: value_of(trial.plain, field) for field in sweep.fields
        }
        for trial in sweep.trials
    }
    taken = {field: [v[field] for v in values.values()] for field in short}
    trials = {
        trial.name: {
            'values': {
                short[field]: _shown(value, taken[field])
                for field, value in values[trial.name].items()
            },
            'step': trial.step(),
            'steps': trial.plain['steps'],
            'done': trial.done(),
            'metrics': {
                m: _newest(logged.get(trial.name, ()), m) for m in metrics
            },
        }
        for trial in sweep.trials
    }
    seed = short.get('seed')
    groups = _groups(trials, metrics, seed)
    higher = is_higher_better(workload, metrics[0])
    pick = max if higher else min
    finished = {
        name: trial['metrics'][metrics[0]]
        for name, trial in trials.items()
        if trial['done'] and trial['metrics'][metrics[0]] is not None
    }
    means = {
        i: group['metrics'][metrics[0]]['mean']
        for i, group in enumerate(groups)
        if group['metrics'][metrics[0]]['n']
    }
    found = {
        'name': workdir.resolve().name,
        'metrics': list(metrics),
        'better': 'higher' if higher else 'lower',
        'fields': short,
        'seed': seed,
        'trials': trials,
        'groups': groups,
        'best': pick(finished, key=finished.__getitem__, default=None),
        'best_group': pick(means, key=means.__getitem__, default=None),
    }
    folders = {trial.name: trial.folder for trial in sweep.trials}
    if note := different_data(folders):
        found['note'] = note
    return found, logged


def _shown(value: Any, others: Sequence[Any]) -> Any:
    """Returns a value as tables show it: a number, or text."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if number else text_of(value, others)


def _means(line: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, float]:
    """Returns the means of the scalars that patterns match."""
    means = {}
    for metric in metrics:
        names = [] if metric in line else fnmatch.filter(line, metric)
        found = [line[n] for n in names if not isinstance(line[n], list)]
        if found:
            means[metric] = statistics.fmean(found)
    return means


def _check_known(metrics: Sequence[str], logged: Mapping[str, Any]) -> None:
    lines = [line for found in logged.values() for line in found]
    known = {
        name
        for line in lines
        for name, value in line.items()
        if not isinstance(value, list) and name != 'step'
    }
    for metric in metrics:
        # Before the first evaluation its names are not known.
        if known and metric not in known and metric not in DEFAULT:
            allowed = 'one of ' + ', '.join(sorted(known))
            raise ConfigError('--metric', metric, allowed)


def _newest(lines: Sequence[Mapping[str, Any]], metric: str) -> float | None:
    found = [line[metric] for line in lines if metric in line]
    return found[-1] if found and math.isfinite(found[-1]) else None


def _groups(
    trials: Mapping[str, Any], metrics: Sequence[str], seed: str | None
) -> list[Results]:
    """Groups the trials that are done by everything but the seed."""
    members: dict[str, list[str]] = {}
    for name, trial in trials.items():
        if trial['done']:
            others = {k: v for k, v in trial['values'].items() if k != seed}
            members.setdefault(json.dumps(others), []).append(name)
    return [
        {
            'values': json.loads(key),
            'trials': names,
            'metrics': {
                metric: mean_and_std(
                    [trials[n]['metrics'][metric] for n in names]
                )
                for metric in metrics
            },
        }
        for key, names in members.items()
    ]


def mean_and_std(values: Sequence[float | None]) -> dict[str, Any]:
    """Returns the number of values, their mean and standard deviation.

    Args:
      values: values, or None for absent ones.

    >>> mean_and_std([1.0, None, 4.0])
    {'n': 2, 'mean': 2.5, 'std': 2.1213203435596424}
    """
    given = [value for value in values if value is not None]
    return {
        'n': len(given),
        'mean': statistics.fmean(given) if given else None,
        'std': statistics.stdev(given) if len(given) > 1 else None,
    }


def table(found: Results) -> str:
    """Formats the results: the trials, and their means over the seeds.

    Args:
      found: the results of `read`.

    Returns:
      Lines of Markdown tables.
    """
    metrics, fields = found['metrics'], list(found['fields'].values())
    rows = [[*fields, 'step', *metrics, '']]
    for name, trial in found['trials'].items():
        rows.append(
            [
                *(_cell(trial['values'][field]) for field in fields),
                f'{trial["step"]}/{trial["steps"]}',
                *(_cell(trial['metrics'][metric]) for metric in metrics),
                'best' if name == found['best'] else '',
            ]
        )
    lines = _aligned(rows)
    if found['seed'] and found['groups']:
        others = [field for field in fields if field != found['seed']]
        heads = [h for m in metrics for h in (m, 'std')]
        rows = [[*others, 'n', *heads, '']]
        for i, group in enumerate(found['groups']):
            spreads = [group['metrics'][metric] for metric in metrics]
            rows.append(
                [
                    *(_cell(group['values'][field]) for field in others),
                    str(spreads[0]['n']),
                    *(_cell(s[k]) for s in spreads for k in ('mean', 'std')),
                    'best' if i == found['best_group'] else '',
                ]
            )
        lines += ['', *_aligned(rows)]
    lines += ['', f'{metrics[0]}: {found["better"]} is better']
    return '\n'.join([*lines, *([found['note']] if 'note' in found else [])])


def _cell(value: Any) -> str:
    if value is None:
        return '-'
    return f'{value:.4g}' if isinstance(value, float) else str(value)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        '| ' + ' | '.join(c.ljust(w) for c, w in zip(row, widths, strict=True))
        for row in rows
    ]
    rule = '| ' + ' | '.join('-' * width for width in widths)
    return [f'{line} |' for line in (lines[0], rule, *lines[1:])]


def write(
    workdir: pathlib.Path,
    found: Results,
    logged: Mapping[str, Sequence[Mapping[str, Any]]],
) -> pathlib.Path:
    """Writes `results.json` and `results.html`.

    Args:
      workdir: folder of the sweep.
      found: the results of `read`.
      logged: the metrics of each trial, of `read`.

    Returns:
      The page's path.
    """
    from moe.report import sweep  # not before: it needs matplotlib

    text = json.dumps(found, indent=1) + '\n'
    files.write_text(workdir / 'results.json', text)
    path = workdir / 'results.html'
    files.write_text(path, sweep.page(found, logged))
    return path


def show(workdir: pathlib.Path, metrics: Sequence[str] = DEFAULT) -> None:
    """Prints the table and writes the page.

    Args:
      workdir: folder of the sweep.
      metrics: names or patterns, see `read`.
    """
    found, logged = read(workdir, metrics)
    print(table(found))
    print(f'page: {write(workdir, found, logged)}')


def import_plugins(workdir: pathlib.Path, named_again: Sequence[str]) -> None:
    """Imports the plugins of a sweep's trials, if they are trusted.

    Args:
      workdir: folder of the sweep.
      named_again: plugins that the user names on the command line.

    Raises:
      ConfigError: for a plugin that is not trusted, see
        `moe.config.plugins.import_plugins_of_run`.
    """
    sweep = manifest.read(workdir)
    plains = (sweep.base, *(trial.plain for trial in sweep.trials))
    names = [name for plain in plains for name in plain.get('plugins', ())]
    import_plugins_of_run(names, named_again, workdir)


_FLAGS = flags.FlagValues()
define_plugins(_FLAGS)
flags.DEFINE_list(
    'metric',
    list(DEFAULT),
    'Metrics or patterns of them; the first decides.',
    flag_values=_FLAGS,
)


@command('launch.results')
def main(argv: list[str]) -> int:
    """Shows results; returns the exit code, 2 for a mistake of the user."""
    jax.config.update('jax_platforms', 'cpu')  # accelerators are the trials'
    folders = [a for a in argv[1:] if not a.startswith('-')]
    rest = [a for a in argv if a not in folders]
    read_flags(_FLAGS, rest)
    if len(folders) != 1:
        raise ConfigError('DIR', ' '.join(folders), "one sweep's folder")
    workdir = pathlib.Path(folders[0])
    import_plugins(workdir, _FLAGS.plugins)
    show(workdir, _FLAGS.metric)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv))
