"""The trainer of one run on a mesh, which the training loop drives."""

import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from moe.metrics import Writer
from moe.parallel import (
    batch_sharding,
    host_of,
    parameter_shardings,
    with_shardings,
)
from moe.training.checkpoint import Checkpoints
from moe.training.config import Config
from moe.training.evaluation import metrics_of
from moe.training.processes import check_same, ending
from moe.training.step import init_state, jit_train_step, make_eval_step
from moe.training.workload import Workload


class Diverged(RuntimeError):
    """The loss is no longer a finite number."""


class MeshTrainer:
    """Trains one run: state, compiled steps, batches, checkpoints, metrics.

    Args:
      config: config of the run, with all sizes of the mesh.
      workdir: the run's folder.
      workload: workload of the run, with its data loaded.
      data: the data of `Workload.load_data`.
      mesh: the device mesh, the one in context.

    Attributes:
      start: step of the checkpoint that it resumes; 0 without one.
      state: the train state.
    """

    def __init__(
        self,
        config: Config,
        workdir: pathlib.Path,
        workload: Workload,
        data: Any,
        mesh: Mesh,
    ):
        self._config, self._workdir = config, workdir
        self._workload, self._data = workload, data
        self._hosts = host_of(mesh)
        self._main = jax.process_index() == 0
        self._sharding = batch_sharding(mesh)
        make = lambda: init_state(config, workload=workload)
        shapes = jax.eval_shape(make)
        shardings = parameter_shardings(
            mesh, shapes, workload.parameters, config.expert_axes
        )
        self._checkpoints = Checkpoints(workdir, config.keep_checkpoints)
        self._batches = workload.train_batches(data, *self._hosts)
        self.start = self._checkpoints.latest() or 0
        # Read before any process continues and could write it.
        self._finished = (workdir / workload.final_file).exists()
        found = {'checkpoint': self.start, 'finished': self._finished}
        check_same('workdir', found)
        if self.start:
            like = with_shardings(shapes, shardings)
            self.state, position = self._checkpoints.restore(self.start, like)
            self._batches.set_state(position)
        else:
            self.state = jax.jit(make, out_shardings=shardings)()
        self._train_step = one_at_a_time(
            jit_train_step(mesh, config, workload, shardings)
        )
        replicated = NamedSharding(mesh, P())
        self._eval_step = one_at_a_time(
            jax.jit(make_eval_step(config, workload), out_shardings=replicated)
        )
        self._writer = Writer(workdir, self.start, self._main)
        self._progress = Progress(config.steps, workload, self.start)

    def announce(self, described: dict[str, Any], notes: Sequence[str]) -> None:
        """Prints the sizes of model and data, and the step it resumes from.

        Args:
          described: the workload's description of the data.
          notes: lines about settings that have no effect.
        """
        total, active = self._workload.count_parameters()
        sizes = [
            f'{value:,} {name.replace("_", " ")}'
            for name, value in described.items()
            if isinstance(value, int)
        ]
        self.say(
            f'{total:,} parameters, {active:,} active a '
            f'{self._workload.unit[:-1]}; {", ".join(sizes)}; '
            f'{jax.device_count()} {jax.devices()[0].platform} device(s)'
        )
        for note in notes:
            self.say(f'note: {note}')
        if self.start:
            self.say(f'resuming from step {self.start}')

    def advance(self) -> Any:
        """Takes a step; returns its metrics, on the device."""
        batch = self._global(next(self._batches))
        self.state, metrics = self._train_step(self.state, batch)
        return metrics

    def evaluate(self) -> list:
        """Evaluates the validation set; returns results on the devices."""
        return [
            self._eval_step(self.state, self._global(batch))
            for batch in self._workload.eval_batches(self._data, *self._hosts)
        ]

    def log(self, step: int, metrics: Any, evaluation: Any) -> None:
        """Writes and prints metrics that are on the host.

        Args:
          step: number of steps taken.
          metrics: metrics of `advance`.
          evaluation: results of `evaluate`; None without one.

        Raises:
          Diverged: if the loss is not finite.
        """
        values, results = logged(self._workload, metrics, evaluation)
        values |= self._progress.speed(step)
        line = self._progress.line(step, values)
        told = [n for n in self._workload.primary_metrics if n in results]
        if told:
            each = (f'{_words(name)} {results[name]:.4f}' for name in told)
            line += f'  validation {", ".join(each)}'
        self.say(line)
        self._writer.write_scalars(step, values)
        if not math.isfinite(values['train/loss']):
            self._writer.close()
            raise Diverged(
                f'train/loss is {values["train/loss"]} at step {step}: '
                'try a lower config.optimizer.learning_rate'
            )

    def save(self, step: int) -> None:
        """Saves a checkpoint in the background."""
        position = self._batches.get_state()
        self._checkpoints.save(step, self.state, position)

    def wait(self) -> None:
        """Waits until all checkpoints are written."""
        self._checkpoints.close()

    @ending()
    def finalize(self) -> None:
        """Writes the workload's results of a finished run, once."""
        if self._finished:
            return
        texts = self._workload.finalize(
            self.state.variables, self._data, self._workdir
        )
        if self._main and texts:
            self._writer.write_texts(self._config.steps, texts)

    def close(self) -> None:
        """Closes the files of metrics."""
        self._writer.close()

    def say(self, line: str) -> None:
        """Prints a line, in the first process alone."""
        if self._main:
            print(line, flush=True)

    def _global(self, batch: Any) -> Any:
        """Makes the global batch, of which this host has a part of the rows."""
        make = jax.make_array_from_process_local_data
        return jax.tree.map(lambda rows: make(self._sharding, rows), batch)


def logged(
    workload: Workload, metrics: dict[str, Any], evaluation: Any
) -> tuple[dict[str, Any], dict[str, float]]:
    """Returns the metrics of a step as they are logged.

    Args:
      workload: workload of the run.
      metrics: metrics of the train step, on the host.
      evaluation: results of the evaluation after it, on the host; None without
        one.

    Returns:
      All metrics by name; and the evaluation's alone, which the first has as
      `eval/NAME`.
    """
    stats = metrics.get('moe', {})
    values = {n: float(x) for n, x in metrics.items() if n != 'moe'}
    values |= workload.layer_metrics(stats)
    results = metrics_of(workload, evaluation) if evaluation else {}
    return values | {f'eval/{n}': v for n, v in results.items()}, results


def one_at_a_time(step: Callable) -> Callable:
    """Runs one program at a time on virtual devices of the CPU.

    They share its threads, all of which collectives of two programs can block
    while they wait for a device without a thread; JAX 0.10 then aborts after
    40 seconds.

    Args:
      step: a jitted function.
    """
    if jax.default_backend() != 'cpu' or jax.device_count() == 1:
        return step
    return lambda *args: jax.block_until_ready(step(*args))


class Progress:
    """Measures speed and remaining time.

    Args:
      steps: number of steps of the whole run.
      workload: workload of the run, with the unit of speed.
      start: number of steps taken before.
    """

    def __init__(self, steps: int, workload: Workload, start: int):
        self._steps, self._workload = steps, workload
        self._last = (start, time.perf_counter())
        self._rate = 0.0

    def speed(self, step: int) -> dict[str, float]:
        """Returns the speed since the last call, 0 at first, as a metric."""
        now = time.perf_counter()
        last, then = self._last
        self._last = (step, now)
        if last and step > last:
            self._rate = (step - last) / (now - then)
        unit = self._workload.unit
        speed = self._rate * self._workload.units_per_step
        return {f'train/{unit}_per_second': speed}

    def line(self, step: int, values: dict[str, Any]) -> str:
        """Returns the line to print for metrics, which include the speed."""
        unit = self._workload.unit
        left = round((self._steps - step) / self._rate) if self._rate else 0
        parts = [
            f'step {step:>{len(str(self._steps))}}/{self._steps}',
            f'loss {values["train/loss"]:.4f}',
            f'{values[f"train/{unit}_per_second"]:,.0f} {unit}/s',
            f'{left // 60}m{left % 60:02}s left',
        ]
        loads = [v for k, v in values.items() if k.endswith('/load_max')]
        if loads:
            parts.append(f'max load {max(loads):.2f}')
        return '  '.join(parts)


def _words(name: str) -> str:
    return name.replace('_per_', '/').replace('_', ' ')
