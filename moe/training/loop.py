"""A run from its config to its folder: train, evaluate, save, go on."""

import contextlib
import dataclasses
import json
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from moe.config import ConfigError, differences
from moe.metrics import Writer
from moe.parallel import (
    MeshConfig,
    batch_sharding,
    host_of,
    make_mesh,
    parameter_shardings,
    with_shardings,
)
from moe.training.checkpoint import Checkpoints
from moe.training.config import Config
from moe.training.processes import (
    agreeing,
    check_same,
    ending,
    stop_signals,
)
from moe.training.step import init_state, make_eval_step, make_train_step
from moe.training.workload import Task


class Diverged(RuntimeError):
    """The loss is no longer a finite number."""


def run(config: Config, plain: dict[str, Any], workdir: pathlib.Path) -> bool:
    """Trains to the last step, going on from whatever `workdir` holds.

    Writes `config.json`, `data.json`, `metrics.jsonl`, `tensorboard/`,
    `checkpoints/` and at the end what the task leaves. On SIGTERM or SIGINT it
    saves a checkpoint and stops. Several processes run it together, the first
    one writes all but the checkpoints.

    Args:
      config: of the run, checked.
      plain: the same config as plain data, kept in `config.json`.
      workdir: the run's folder, made if absent.

    Returns:
      Whether the run is complete.

    Raises:
      ConfigError: for data or devices that do not fit the config, or a folder
        with a different run; nothing is written then.
      Diverged: if the loss is not finite.
    """
    with agreeing():
        _check_earlier(workdir / 'config.json', plain, 'config')
        task = config.make_task()
        data = task.load()
        described = task.describe(data)
        _check_earlier(workdir / 'data.json', described, 'data')
        mesh = make_mesh(config.mesh)
        config = _on_mesh(config, mesh)
        config.check_batch(mesh.shape)
        config.check_platform(mesh.devices.flat[0].platform)
        hosts = host_of(mesh)
    check_same('config', plain)
    check_same('data', described)
    with agreeing():
        if jax.process_index() == 0:
            describe(workdir, plain, described)
            task.keep(data, workdir)
    with agreeing():
        if not (workdir / 'config.json').exists():
            allowed = 'one folder that all processes see'
            raise ConfigError('workdir', str(workdir), allowed)
    with jax.set_mesh(mesh), stop_signals() as stopping:
        return _Run(config, workdir, task, data, mesh, hosts).train(stopping)


def describe(
    workdir: pathlib.Path, plain: dict[str, Any], described: dict[str, Any]
) -> None:
    """Writes into a run's folder what it is a run of.

    Args:
      workdir: the run's folder, made if absent.
      plain: its config.
      described: its data, by the task.

    Raises:
      ConfigError: if there can be no such folder.
    """
    _make_folder(workdir)
    _write_json(workdir / 'config.json', plain)
    _write_json(workdir / 'data.json', described)


def logged(
    task: Task, metrics: dict[str, Any], batches: Any
) -> tuple[dict[str, Any], dict[str, float]]:
    """The line of a step in `metrics.jsonl`.

    Args:
      task: of the run.
      metrics: of the train step, on the host.
      batches: of the evaluation after it, likewise; None without one.

    Returns:
      Values by name, and the results of the evaluation among them.
    """
    stats = metrics.pop('moe', {})
    values: dict[str, Any] = {name: float(x) for name, x in metrics.items()}
    values |= task.layer_metrics(stats)
    results = {} if batches is None else task.results(batches)
    return values | {f'eval/{n}': v for n, v in results.items()}, results


def train_step_on(
    mesh: Mesh, config: Config, task: Task, shardings: Any
) -> Any:
    """The train step as a run has it, jitted; plans compile it too.

    Args:
      mesh: the device mesh.
      config: of the run.
      task: of the run.
      shardings: of the train state, which the step takes over.

    Returns:
      The step; its metrics are whole on every device.
    """
    return jax.jit(
        make_train_step(config, task),
        donate_argnums=0,
        out_shardings=(shardings, NamedSharding(mesh, P())),
    )


def _on_mesh(config: Config, mesh: Mesh) -> Config:
    """The config with no size of the mesh left open, checked once more."""
    try:
        return dataclasses.replace(config, mesh=MeshConfig(**mesh.shape))
    except ConfigError as error:
        field = f'config.{error.field}'
        raise ConfigError(field, error.value, error.allowed) from None


class _Run:
    """The moving parts of one run."""

    def __init__(self, config, workdir, task: Task, data, mesh, hosts):
        self._config, self._workdir = config, workdir
        self._task, self._source = task, data
        self._main = jax.process_index() == 0
        self._hosts = hosts
        self._batches = batch_sharding(mesh)
        make = lambda: init_state(config, task=task)
        shardings = parameter_shardings(
            mesh, jax.eval_shape(make), task.parameters, config.expert_axes
        )
        self._checkpoints = Checkpoints(workdir, config.keep_checkpoints)
        self._data = task.train_batches(data, *self._hosts)
        self.start = self._checkpoints.latest() or 0
        # Before anyone goes on, and could write it.
        self._finished = (workdir / task.last_file).exists()
        there = {'checkpoint': self.start, 'finished': self._finished}
        check_same('workdir', there)
        if self.start:
            like = with_shardings(jax.eval_shape(make), shardings)
            self.state, position = self._checkpoints.restore(self.start, like)
            self._data.set_state(position)
        else:
            self.state = jax.jit(make, out_shardings=shardings)()
        everywhere = NamedSharding(mesh, P())
        train_step = train_step_on(mesh, config, task, shardings)
        eval_step = jax.jit(
            make_eval_step(config, task), out_shardings=everywhere
        )
        self._train_step = _in_turn(train_step)
        self._eval_step = _in_turn(eval_step)
        self._writer = Writer(workdir, self.start, self._main)
        self._progress = _Progress(config.steps, task, self.start)
        self._pending: list[tuple[int, Any, Any]] = []

    def train(self, stopping: Callable[[int], bool]) -> bool:
        """Steps until the end or a signal; True at the end."""
        self._announce()
        with contextlib.closing(self._checkpoints):
            complete = self._steps(stopping)
        if complete and not self._finished:
            self._leave()
        self._writer.close()
        return complete

    @ending(Diverged)
    def _steps(self, stopping: Callable[[int], bool]) -> bool:
        config, step = self._config, self.start
        while step < config.steps and not stopping(step):
            batch = self._global(next(self._data))
            self.state, metrics = self._train_step(self.state, batch)
            step += 1
            # Only now: the device is busy with the step just started.
            self._write_pending()
            last = step == config.steps
            evaluation = None
            if last or step % config.eval_every == 0:
                evaluation = self._evaluate()
            if evaluation or step == 1 or step % config.log_every == 0:
                self._pending.append((step, metrics, evaluation))
            if last or step % config.checkpoint_every == 0:
                self._save(step)
        self._write_pending()
        if step < config.steps:
            self._save(step)
            self._say(f'stopped at step {step}; the same command goes on')
        return step == config.steps

    def _save(self, step):
        self._checkpoints.save(step, self.state, self._data.get_state())

    def _global(self, batch: Any) -> Any:
        """This host's rows as its share of the global batch."""
        make = jax.make_array_from_process_local_data
        return jax.tree.map(lambda rows: make(self._batches, rows), batch)

    def _evaluate(self) -> list:
        """What came of the whole validation set, still on the device."""
        return [
            self._eval_step(self.state, self._global(batch))
            for batch in self._task.val_batches(self._source, *self._hosts)
        ]

    def _write_pending(self):
        for step, metrics, evaluation in self._pending:
            fetched = jax.device_get((metrics, evaluation))
            values, results = logged(self._task, *fetched)
            line = self._progress.line(step, values)
            if results:
                line += f'  {self._task.headline(results)}'
            self._say(line)
            self._writer.write_scalars(step, values)
            if not math.isfinite(values['train/loss']):
                self._writer.close()
                raise Diverged(
                    f'train/loss is {values["train/loss"]} at step {step}: '
                    'try a lower config.optimizer.learning_rate'
                )
        self._pending = []

    def _announce(self):
        total, active = self._task.count_parameters()
        self._say(
            f'{total:,} parameters, {active:,} active a '
            f'{self._task.unit[:-1]}; '
            f'{self._task.announce(self._source)}; {jax.device_count()} '
            f'{jax.devices()[0].platform} device(s)'
        )
        if self.start:
            self._say(f'going on from step {self.start}')

    @ending()
    def _leave(self):
        """Leaves what the report shows."""
        texts = self._task.leave(
            self.state.variables, self._source, self._workdir
        )
        if self._main and texts:
            self._writer.write_texts(self._config.steps, texts)

    def _say(self, line):
        if self._main:
            print(line, flush=True)


def _in_turn(step: Callable) -> Callable:
    """One program at a time, where two at once could wait for each other.

    Virtual devices share the threads of the CPU: those of two programs can
    all be taken by collectives that wait for a device without a thread. JAX
    0.10 then aborts after 40 seconds.
    """
    if jax.default_backend() != 'cpu' or jax.device_count() == 1:
        return step
    return lambda *args: jax.block_until_ready(step(*args))


class _Progress:
    """Speed and time left, measured between the lines it makes."""

    def __init__(self, steps: int, task: Task, start: int):
        self._steps, self._task = steps, task
        self._last = (start, time.perf_counter())
        self._rate = 0.0

    def line(self, step: int, values: dict[str, float]) -> str:
        now = time.perf_counter()
        last, then = self._last
        self._last = (step, now)
        if last and step > last:
            self._rate = (step - last) / (now - then)
        speed, unit = self._rate * self._task.units_per_step, self._task.unit
        values[f'train/{unit}_per_second'] = speed
        left = round((self._steps - step) / self._rate) if self._rate else 0
        parts = [
            f'step {step:>{len(str(self._steps))}}/{self._steps}',
            f'loss {values["train/loss"]:.4f}',
            f'{speed:,.0f} {unit}/s',
            f'{left // 60}m{left % 60:02}s left',
        ]
        loads = [v for k, v in values.items() if k.endswith('/load_max')]
        if loads:
            parts.append(f'max load {max(loads):.2f}')
        return '  '.join(parts)


def _check_earlier(path: pathlib.Path, now: dict, what: str) -> None:
    """Refuses a folder whose earlier run was of something else.

    A run may go on on another mesh.
    """
    if path.exists():
        earlier = {**json.loads(path.read_text()), 'mesh': now.get('mesh')}
        lines = list(differences(earlier, {'mesh': None, **now}, what))
        if lines:
            allowed = 'a new folder, or one of the same run: ' + '; '.join(
                lines
            )
            raise ConfigError('workdir', str(path.parent), allowed)


def _make_folder(path: pathlib.Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        allowed = f'a folder, or the name of a new one ({error.strerror})'
        raise ConfigError('workdir', str(path), allowed) from None


def _write_json(path: pathlib.Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + '\n')
