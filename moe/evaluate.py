"""`python -m moe.evaluate --workdir=DIR`: evaluates a trained run.

`--config.data.NAME=VALUE` evaluates it on other data. The results are a file of
their own, `evaluations/step-N.json`; nothing is overwritten.
"""

import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import flags
from jax.sharding import Mesh

from moe import progress
from moe.command_line import command, define_plugins, read_overrides
from moe.config import ConfigError, override, parse
from moe.parallel import (
    MeshConfig,
    batch_sharding,
    make_mesh,
    parameter_shardings,
    with_shardings,
)
from moe.training.best import by_metric
from moe.training.config import Config
from moe.training.eval_metrics import is_higher_better
from moe.training.evaluation import (
    EvalBatch,
    evaluate,
    metrics_of,
    routing_of,
    rows_of,
)
from moe.training.folder import read_plain_config
from moe.training.host import now
from moe.training.loop import on_mesh
from moe.training.restore import (
    check_step,
    list_checkpoints,
    restore_newest,
    restore_variables,
)
from moe.training.step import init_state
from moe.workloads import registry

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
      step: step of the checkpoint; 'best' is the one with the best metric, None
        the newest.
      changes: fields of the config that are other than in training, by dotted
        name; `data.*` names other data.
      metric: metric of 'best', by default the workload's first.
      plugins: the run's plugins that may be imported.

    Returns:
      `step`, `time`, the `changes`, the description of the `data`, the
      `metrics` by name, as a run logs them, and the workload's details.

    Raises:
      ConfigError: for a folder, a step or changes that cannot be used.
      Damaged: if the checkpoint is damaged, or all of them are.
    """
    run = registry.read_run(workdir, plugins)
    schema, plain = type(run), read_plain_config(workdir)
    config = parse(schema, override(schema, plain, changes))
    if config.workload == 'multitask' and config.data != run.data:
        allowed = (
            'as in the run, whose table decides the preprocessing (moe.predict '
            'reads others)'
        )
        raise ConfigError('config.data', dict(changes), allowed)
    config, mesh = placed(config, dict(changes))
    workload = config.make_workload()
    with progress.shown('loading data'):
        data = workload.load_data()
    entries = list_checkpoints(workdir)
    if not entries:
        allowed = 'the folder of a run with a checkpoint'
        raise ConfigError('workdir', str(workdir), allowed)
    if step == 'best':
        name = metric or f'eval/{workload.primary_metrics[0]}'
        higher = is_higher_better(workload, name)
        entries = [entry for _, entry in by_metric(workdir, name, higher)]
    elif step is not None:
        number = _number(step)
        check_step(number, sorted({entry.step for entry in entries}))
        entries = [entry for entry in entries if entry.step == number]
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(lambda: init_state(config, workload=workload))
        shardings = parameter_shardings(
            mesh, shapes, workload.parameters, config.expert_axes
        )
        like = with_shardings(shapes, shardings)

        def read(path):
            return path, restore_variables(path, like)

        (path, variables), damages = restore_newest(workdir, entries, read)
        for damage in damages:
            print(f'{damage}; {path} is used', file=sys.stderr)
        results = _results(config, workload, data, variables, mesh)
    metrics = metrics_of(workload, results) | routing_of(workload, results)
    taken = next(entry.step for entry in entries if entry.path == path)
    return {
        'step': taken,
        'time': now(),
        'changes': {name: str(value) for name, value in changes},
        'data': workload.describe_data(data),
        'metrics': {f'eval/{name}': v for name, v in metrics.items()},
        **workload.eval_details(rows_of(results)),
    }


def _number(step: int | str) -> int:
    text = str(step)
    if not (text.isascii() and text.isdecimal()):
        raise ConfigError('--step', step, "the step of a checkpoint, or 'best'")
    return int(text)


def placed(config: Config, changes: Mapping[str, Any]) -> tuple[Config, Mesh]:
    """Returns the config with a mesh of this machine, and the mesh.

    It is the run's, if there are as many devices, or the one that is given.

    Args:
      config: config of the run.
      changes: fields of it that are given, by dotted name.

    Raises:
      ConfigError: for a mesh that is given and cannot be made.
    """
    try:
        mesh = make_mesh(config.mesh)
    except ConfigError:
        if any(name.partition('.')[0] == 'mesh' for name in changes):
            raise
        mesh = make_mesh(MeshConfig())
    return on_mesh(config, mesh), mesh


def _results(config, workload, data, variables, mesh) -> list[EvalBatch]:
    """Evaluates a whole validation set, batch by batch."""
    sharding = batch_sharding(mesh)
    step = jax.jit(
        lambda variables, batch: evaluate(
            workload, config.metrics, variables, batch
        )
    )
    place = lambda rows: jax.make_array_from_process_local_data(sharding, rows)
    results = []
    with progress.shown('evaluation', unit='batches') as reach:
        for batch in workload.eval_batches(data, 0, 1):
            result = step(variables, jax.tree.map(place, batch))
            results.append(jax.device_get(result))
            reach(len(results))
    if not results:
        raise ConfigError('config.data', None, 'one with validation examples')
    return results


def write(workdir: pathlib.Path, found: Mapping[str, Any]) -> pathlib.Path:
    """Writes the results of an evaluation under a name that is free.

    Args:
      workdir: the run's folder.
      found: results of `evaluate_run`.

    Returns:
      The path, `evaluations/step-N.json` or `evaluations/step-N-2.json`.
    """
    folder = workdir / FOLDER
    folder.mkdir(exist_ok=True)
    name, count = f'step-{found["step"]}', 1
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
    """Returns what is printed of an evaluation: metrics, then layers.

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
    return [f'step {found["step"]}: {", ".join(told)}', *rows]


@command('moe.evaluate')
def main(argv: list[str]) -> int:
    """Evaluates, prints, and writes the results; returns the exit code."""
    changes = read_overrides(_FLAGS, argv)
    if not _FLAGS.workdir:
        raise ConfigError('--workdir', _FLAGS.workdir, 'given')
    workdir = pathlib.Path(_FLAGS.workdir)
    found = evaluate_run(
        workdir,
        _FLAGS.step,
        changes,
        metric=_FLAGS.metric,
        plugins=_FLAGS.plugins,
    )
    print('\n'.join(lines(found)))
    print(f'written: {write(workdir, found)}')
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv))
