"""A checkpoint of a run, opened for evaluation on the mesh of this machine."""

import itertools
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from moe import progress
from moe.config import ConfigError, override, parse
from moe.parallel import (
    MeshConfig,
    batch_sharding,
    global_batch,
    make_mesh,
    parameter_shardings,
    with_shardings,
)
from moe.training.best import by_metric
from moe.training.config import Config
from moe.training.eval_metrics import is_higher_better
from moe.training.evaluation import EvalBatch, evaluate
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


class Opened(NamedTuple):
    """A checkpoint of a run that is open for evaluation.

    Attributes:
      config: config of the run, with the changes.
      workload: its workload.
      data: the data.
      mesh: mesh of this machine's devices.
      variables: variables of the model, on the mesh.
      facts: `step`, `time`, `changes` and description of the `data`, JSON.
    """

    config: Config
    workload: Any
    data: Any
    mesh: Mesh
    variables: Any
    facts: dict[str, Any]

    def evaluated(
        self, workload: Any = None, max_batches: int | None = None
    ) -> list[EvalBatch]:
        """Evaluates the validation set, batch by batch.

        Args:
          workload: workload of another config; None for the run's.
          max_batches: the most batches; None for all.

        Raises:
          ConfigError: without a validation example.
        """
        workload = workload or self.workload
        sharding = batch_sharding(self.mesh)
        step = jax.jit(
            lambda variables, batch: evaluate(
                workload, self.config.metrics, variables, batch
            )
        )
        batches = self.workload.eval_batches(self.data, 0, 1)
        results = []
        with (
            jax.set_mesh(self.mesh),
            progress.shown('evaluation', unit='batches') as reach,
        ):
            for batch in itertools.islice(batches, max_batches):
                result = step(self.variables, global_batch(sharding, batch))
                results.append(jax.device_get(result))
                reach(len(results))
        if not results:
            allowed = 'one with validation examples'
            raise ConfigError('config.data', None, allowed)
        return results


def open_run(
    workdir: pathlib.Path,
    step: int | str | None = None,
    changes: Sequence[tuple[str, Any]] = (),
    *,
    metric: str | None = None,
    plugins: Sequence[str] = (),
    load: Callable[[Any], Any] = lambda workload: workload.load_data(),
) -> Opened:
    """Opens a checkpoint of a run for evaluation; nothing is written.

    Args:
      workdir: the run's folder.
      step: step of the checkpoint; 'best' is the one with the best metric, None
        the newest.
      changes: fields of the config that are other than in training, by dotted
        name; `data.*` names other data.
      metric: metric of 'best', by default the workload's first.
      plugins: the run's plugins that may be imported.
      load: a function from the workload to the data.

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
    if config.data != run.data:
        config = config.prepared_as(workdir)
    config, mesh = placed(config, dict(changes))
    workload = config.make_workload()
    with progress.shown('loading data'):
        data = load(workload)
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
    facts = {
        'step': next(entry.step for entry in entries if entry.path == path),
        'time': now(),
        'changes': {name: str(value) for name, value in changes},
        'data': workload.describe_data(data),
    }
    return Opened(config, workload, data, mesh, variables, facts)


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
