"""Runs made of other runs: read leaf by leaf, changed, written at step 0.

A transform is a function from the name of a leaf of the new run, and its first
value, to what stands there. It reads what it needs of the other run's leaves,
each verified by its checksum. The new run is an ordinary one: it evaluates,
samples, trains on, and other runs start from it by `init_from`.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from moe import evaluate
from moe.command_line import define_plugins
from moe.config import ConfigError, Damaged, override, parse
from moe.parallel import parameter_shardings, with_shardings
from moe.paths import check_local, read_json
from moe.training import folder, history
from moe.training.arrays import read_leaf
from moe.training.checkpoint import Checkpoints
from moe.training.checksum import leaf_names
from moe.training.config import Config
from moe.training.lock import locked
from moe.training.record import Damage, Leaf, read_record
from moe.training.restore import check_step, list_checkpoints
from moe.training.step import init_state
from moe.workloads import registry
from moe.workloads.opened import placed
from moe.workloads.transformer import TransformerRun

Overrides = Sequence[tuple[str, Any]]
# Returns the values of a leaf of the new run, of its name and first values;
# None leaves the first values.
Make = Callable[[str, jax.Array], np.ndarray | None]


def define(values: flags.FlagValues) -> None:
    """Defines the flags that all transforms have.

    Args:
      values: the flags of the command.
    """
    flags.DEFINE_string(
        'workdir', None, 'Folder of the new run.', flag_values=values
    )
    flags.DEFINE_integer(
        'step',
        None,
        'Step of the checkpoint that is read; None is the newest.',
        flag_values=values,
    )
    flags.DEFINE_bool(
        'evaluate',
        True,
        'Evaluate both runs, on the validation set.',
        flag_values=values,
    )
    define_plugins(values)


class Source:
    """A checkpoint of a run, whose leaves are read when they are asked for.

    Args:
      workdir: the run's folder; nothing is written there.
      step: step of the checkpoint; None is the newest.
      plugins: plugins of the run that may be imported.

    Attributes:
      workdir: the run's folder.
      config: its config, checked.
      plain: its config, plain data of every field.
      path: folder of the checkpoint.
      step: its step.
      leaves: what its record has of the leaves of the model, by name: 'params/'
        and 'model_state/'. The parameters are the averaged ones, if the run
        has an average.

    Raises:
      ConfigError: for a folder that is no run of a transformer, or has no such
        checkpoint.
      Damaged: if the checkpoint is.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        step: int | None,
        plugins: Sequence[str] = (),
    ):
        self.workdir = workdir
        self.config = registry.read_run(workdir, plugins)
        if not isinstance(self.config, TransformerRun):
            allowed = 'the folder of a run of a transformer'
            raise ConfigError('DIR', str(workdir), allowed)
        self.plain = registry.plain_of(self.config)
        entries = list_checkpoints(workdir)
        if not entries:
            allowed = 'the folder of a run with a checkpoint'
            raise ConfigError('DIR', str(workdir), allowed)
        check_step(step, sorted({entry.step for entry in entries}))
        entry = next(e for e in entries if step in (None, e.step))
        self.path, self.step = entry.path, entry.step
        try:
            found = read_record(entry.path).leaves
        except Damage as damage:
            raise damaged(damage, workdir) from None
        averaged = any(name.startswith('average/') for name in found)
        self._kept = 'average/' if averaged else 'params/'
        self.leaves: dict[str, Leaf] = {}
        for name, leaf in found.items():
            if name.startswith(self._kept):
                name = 'params/' + name.removeprefix(self._kept)
            elif not name.startswith('model_state/'):
                continue
            self.leaves[name] = leaf
        # A leaf of a stack is read for each of its layers, one after another.
        self.read = functools.lru_cache(maxsize=8)(self._read)

    def _read(self, name: str) -> np.ndarray:
        """Returns a leaf by its name, verified; bfloat16 as float32."""
        own = name
        if name.startswith('params/'):
            own = self._kept + name.removeprefix('params/')
        try:
            values = read_leaf(self.path, own, self.leaves[name])
        except Damage as damage:
            raise damaged(damage, self.workdir) from None
        is_narrow = values.dtype.name == 'bfloat16'
        return values.astype(np.float32) if is_narrow else values

    def changed(
        self, changes: Mapping[str, Any], overrides: Overrides = ()
    ) -> Config:
        """Returns the config of a run that is made of this one.

        Args:
          changes: what the transform changes, by dotted name.
          overrides: what the user changes, `Text` by dotted name.

        Raises:
          ConfigError: for the first field that cannot be used.
        """
        schema = type(self.config)
        plain = {**self.plain, 'init_from': None}
        plain = override(schema, plain, {**changes, **dict(overrides)}.items())
        return parse(schema, plain)


def damaged(damage: Damage, workdir: pathlib.Path) -> Damaged:
    """Returns the error of a checkpoint that is damaged.

    Args:
      damage: what was found.
      workdir: the run's folder.
    """
    return Damaged(
        f'{damage} (python -m moe.checkpoints verify {workdir} tells which are '
        'whole, and --step takes another)'
    )


def new_folder(value: str | None) -> pathlib.Path:
    """Returns the folder of a new run, which must have none.

    Args:
      value: the flag `--workdir`.

    Raises:
      ConfigError: if it is absent, or has a run.
    """
    if not value:
        raise ConfigError('--workdir', value, 'given')
    workdir = pathlib.Path(value)
    check_local(workdir, '--workdir')
    if (workdir.is_dir() and any(workdir.iterdir())) or workdir.is_file():
        allowed = 'a new folder, or an empty one'
        raise ConfigError('--workdir', value, allowed)
    return workdir


class Told(NamedTuple):
    """What is told of a transform.

    Attributes:
      by: name of the command.
      options: its options, JSON.
      lines: what is printed before the evaluations.
      facts: what else the history of the new run keeps, JSON.
    """

    by: str
    options: Mapping[str, Any]
    lines: Sequence[str] = ()
    facts: Mapping[str, Any] = {}


def write(
    source: Source,
    workdir: pathlib.Path,
    config: Config,
    make: Make,
    told: Told,
    data: Overrides | None = None,
) -> None:
    """Writes a run that is made of another, and evaluates both.

    Args:
      source: the other run.
      workdir: folder of the new run.
      config: its config.
      make: the transform.
      told: what is told of it.
      data: what is changed of the config for evaluating both, `data.*`; None
        evaluates neither.
    """
    before = None
    if data is not None:
        found = evaluate.evaluate_run(source.workdir, source.step, data)
        before = _scalars(found)
        print(_line(f'{source.workdir}, step {source.step}', before))
    for line in told.lines:
        print(line, flush=True)
    described = None
    if (source.workdir / folder.DATA).exists() and not data:
        described = read_json(source.workdir / folder.DATA)
    write_run(workdir, config, make, described)
    facts: dict[str, Any] = {
        'by': told.by,
        'run': str(source.workdir),
        'step': source.step,
        'options': dict(told.options),
        **told.facts,
    }
    if before is not None:
        found = evaluate.evaluate_run(workdir, 0)
        after = _scalars(found)
        print(_line(str(workdir), after))
        path = evaluate.write(workdir, found)
        print(f'written: {path}')
        facts |= {'before': before, 'after': after}
    history.record(workdir, history.MADE, **facts)


def data_of(overrides: Overrides) -> list[tuple[str, Any]]:
    """Returns those overrides that choose the data.

    Args:
      overrides: `Text` by dotted name.
    """
    return [o for o in overrides if o[0].partition('.')[0] == 'data']


def _scalars(found: Mapping[str, Any]) -> dict[str, float]:
    """Returns the metrics of an evaluation without those of the routing."""
    names = found['metrics'].items()
    return {n: v for n, v in names if not n.startswith('eval/moe/')}


def _line(name: str, metrics: Mapping[str, float]) -> str:
    values = (f'{n.removeprefix("eval/")} {v:.4f}' for n, v in metrics.items())
    return f'{name}: {", ".join(values)}'


def write_run(
    workdir: pathlib.Path,
    config: Config,
    make: Make,
    described: Mapping[str, Any] | None = None,
    *,
    every: bool = False,
) -> None:
    """Writes the folder of a run at step 0.

    The first state is made on the mesh of the config, and its leaves are
    replaced one after another: the host holds what one of them is made of. The
    optimizer's state is the first one, the place in the data their start.

    Args:
      workdir: the run's folder, without a run.
      config: its config.
      make: returns the values of each parameter and variable.
      described: the description of its data; None if it is not known.
      every: whether `make` returns every parameter: first ones are not made,
        and it is called with shapes.

    Raises:
      ConfigError: if a leaf is of another shape than the model has.
    """
    plain = registry.plain_of(config)
    config, mesh = placed(config, {})
    workload = config.make_workload()
    init = lambda: init_state(config, workload=workload)
    with locked(workdir), jax.set_mesh(mesh):
        shapes = jax.eval_shape(init)
        shardings = parameter_shardings(
            mesh, shapes, workload.parameters, config.expert_axes
        )
        names, structure = leaf_names(shapes), jax.tree.structure(shapes)
        leaves = jax.tree.leaves(with_shardings(shapes, shardings))
        # The compiler leaves out what makes parameters that are not wanted.
        given = ('params/', 'average/') if every else ()
        own = [i for i, n in enumerate(names) if not n.startswith(given)]
        first = jax.jit(
            lambda: [jax.tree.leaves(init())[i] for i in own],
            out_shardings=[leaves[i].sharding for i in own],
        )()
        for i, leaf in zip(own, first, strict=True):
            leaves[i] = leaf
        for i, name in enumerate(names):
            if name.startswith(('params/', 'model_state/')):
                made = make(name, leaves[i])
                if made is not None:
                    leaves[i] = _on_devices(name, made, leaves[i])
        index = {name: i for i, name in enumerate(names)}
        for name, i in index.items():
            if name.startswith('average/'):
                leaves[i] = leaves[index[f'params/{name[len("average/") :]}']]
        state = jax.tree.unflatten(structure, leaves)
        if described is None:
            folder.write_plain_config(workdir, plain)
        else:
            folder.write_description(workdir, plain, described)
        checkpoints = Checkpoints(workdir, keep=None)
        checkpoints.save(0, state, None)
        checkpoints.close()


def _on_devices(name: str, made: np.ndarray, like: jax.Array) -> jax.Array:
    if made.shape != like.shape:
        allowed = f'{list(like.shape)}, as in the new config'
        raise ConfigError(name, list(made.shape), allowed)
    values = np.asarray(made, like.dtype)
    return jax.make_array_from_callback(
        like.shape, like.sharding, lambda index: values[index]
    )
