"""The trainer of one run on a mesh, which the training loop drives."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from moe.config import to_plain
from moe.metrics import Writer
from moe.parallel import (
    batch_sharding,
    global_batch,
    host_of,
    parameter_shardings,
    with_shardings,
)
from moe.sinks import Sink, WandB
from moe.training import history
from moe.training.checkpoint import Checkpoints, saved_steps
from moe.training.clock import Clock
from moe.training.config import Config
from moe.training.cost import Cost
from moe.training.divergence import Diverged, all_finite, told
from moe.training.evaluation import metrics_of, routing_of
from moe.training.health import Health
from moe.training.host import one_at_a_time
from moe.training.origin import origin
from moe.training.processes import check_same, ending, gather
from moe.training.profile import Profile
from moe.training.restore import Restored
from moe.training.step import init_state, jit_train_step, make_eval_step
from moe.training.warm_start import WarmStart, warm_start
from moe.training.watch import Watch
from moe.training.workload import Workload


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
      clock: the clock of the time in training.
      owes_evaluation: whether the evaluation at `start` was interrupted.
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
        # Read before any process continues and could write it.
        self._finished = history.is_finished(
            workdir, workload.final_file, config.steps
        )
        check_same('workdir', {'finished': self._finished})
        self._like = with_shardings(shapes, shardings)
        self._first = jax.jit(make, out_shardings=shardings)
        found = self._checkpoints.resume(self._like)
        self._resumed = found is not None
        self._warm: WarmStart | None = None
        if found is None:
            found = self._begin(mesh)
        self._mesh, self.start, self.state = mesh, found.step, found.state
        if found.position is not None:  # of a run that another was made into
            self._batches.set_state(found.position)
        self._watch = Watch(config.best, workload, workdir, self.start)
        if config.best.keep:
            self._checkpoints.watched(self._watch)
        self._train_step = one_at_a_time(
            jit_train_step(mesh, config, workload, shardings)
        )
        replicated = NamedSharding(mesh, P())
        self._eval_step = one_at_a_time(
            jax.jit(make_eval_step(config, workload), out_shardings=replicated)
        )
        look = lambda state: (state.guard.in_a_row, all_finite(state))
        self._look = one_at_a_time(jax.jit(look, out_shardings=replicated))
        self._told, self._told_absent, self._returns = False, False, 0
        self._told_metric = False
        self._health = Health()
        self._writer = Writer(workdir, self.start, self._main, self._sinks)
        self.clock = Clock(config.steps, workload)
        self._cost = Cost(workload, list(mesh.devices.flat))
        self._constants = {} if self._resumed else self._cost.constants()
        self._profile = Profile(workdir, config.profile)
        self._taken = self.start
        due = self.start % config.eval_every == 0 or self.start == config.steps
        owes = due and not self._finished and not self._writer.evaluated
        self.owes_evaluation = bool(self.start and gather(owes)[0])

    def _sinks(self) -> list[Sink]:
        """Opens the sinks of metrics that the config asks for."""
        config, wandb = self._config, self._config.wandb
        plain = to_plain(type(config), config)
        return [] if wandb is None else [WandB(wandb, self._workdir, plain)]

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
        facts = [
            f'{total:,} parameters, {active:,} active a '
            f'{self._workload.unit[:-1]}',
            ', '.join(sizes),
            (devices := _devices()),
        ]
        self.say('; '.join(filter(None, facts)))
        for note in notes:
            self.say(f'note: {note}')
        if self._resumed:
            self.say(f'resuming from step {self.start}')
        more: dict[str, Any] = {'parameters': total, 'active': active}
        more |= {'devices': devices, **origin()}
        if self._warm is not None:
            for line in self._warm.lines():
                self.say(line)
            more['init_from'] = self._warm.facts()
        if not self._finished:
            event = history.RESUMED if self._resumed else history.STARTED
            self.record(event, step=self.start, **more)

    def _begin(self, mesh: Mesh) -> Restored:
        """Returns the state before the first step, and the data's place."""
        batches = self._workload.train_batches(self._data, *self._hosts)
        first, position = self._first(), batches.get_state()
        if self._config.init_from is None:
            return Restored(first, position)
        self._warm = warm = warm_start(
            self._config, self._workload, self._workdir, first, mesh
        )
        moved = warm.position is not None
        return Restored(warm.state, warm.position if moved else position)

    def advance(self) -> Any:
        """Takes a step; returns its metrics, on the device."""
        self._profile.before(self._taken)
        with self.clock.waiting():
            batch = global_batch(self._sharding, next(self._batches))
        self.state, metrics = self._train_step(self.state, batch)
        self._taken += 1
        self._profile.after(self._taken, metrics)
        return metrics

    def evaluate(self) -> Iterator[Any]:
        """Yields the result of each validation batch, on the devices."""
        for batch in self._workload.eval_batches(self._data, *self._hosts):
            rows = global_batch(self._sharding, batch)
            yield self._eval_step(self.state, rows)

    def complete(self, evaluation: Any) -> None:
        """Adds the evaluation at `start` to the metrics logged before.

        Args:
          evaluation: its results, on the host.
        """
        values, results = logged(self._workload, {}, evaluation)
        self._writer.complete(self.start, values)
        self._watch.note(self.start, values)
        self.say(f'step {self.start}{self._validation(results)}')

    def log(self, step: int, metrics: Any, evaluation: Any) -> None:
        """Writes and prints metrics that are on the host.

        Args:
          step: number of steps taken.
          metrics: metrics of `advance`.
          evaluation: results of `evaluate`; None without one.

        Raises:
          Diverged: if too many updates in a row were left out.
        """
        values, results = logged(self._workload, metrics, evaluation)
        speed = self.clock.speed()
        values |= speed | self._cost.metrics(step, speed) | self._constants
        self._constants = {}  # they stand in the first line
        line = self.clock.line(step, values)
        self.say(line + (self._validation(results) if evaluation else ''))
        self._writer.write_scalars(step, values)
        if values.get('train/skipped') and not self._told:
            self._told = True
            self.say(
                f'note: {values["train/skipped"]:.0f} update(s) left out up to '
                f'step {step}, of a loss or a gradient that is not finite or '
                'too large; train/skipped counts them'
            )
        problem = self._watch.note(step, values)
        if problem and not self._told_metric:
            self._told_metric = True
            self.say(f'note: {problem}')
        for warning in self._health.warnings(values):
            self.say(f'warning: {warning}')
        reason = told(step, values, self._config.divergence)
        if reason:
            self._turn_back(reason)

    def _turn_back(self, reason: str) -> None:
        """Goes back to a state of before a divergence, or stops.

        A checkpoint after which no loss was finite is set aside. If there is
        no other, the first state becomes one.

        Args:
          reason: why.

        Raises:
          Diverged: if it stops.
        """
        step, guard = self.state.step, self.state.guard
        self._checkpoints.leave(int(step) - int(guard.in_a_row))
        if not saved_steps(self._workdir):
            del self.state
            begun = self._begin(self._mesh)
            self._checkpoints.save(begun.step, begun.state, begun.position)
            self._checkpoints.close()
        config = self._config.divergence
        if config.then == 'stop' or self._returns == config.max_returns:
            raise Diverged(
                f'{reason}; lower config.optimizer.learning_rate, which this '
                'folder then accepts'
            )
        self._returns += 1
        found = self._checkpoints.resume(self._like)
        assert found  # there is one at least
        self.say(f'{reason}; going on from the state of step {found.step}')
        self.record(history.WENT_BACK, reason=reason, to=found.step)
        # The data, the metrics and the draws go on.
        guard = found.state.guard._replace(skipped=guard.skipped)
        self.state = found.state._replace(step=step, guard=guard)

    def _validation(self, results: dict[str, float]) -> str:
        """Returns the end of a line that has results of an evaluation."""
        names = self._workload.primary_metrics
        there = [name for name in names if name in results]
        absent = ', '.join(name for name in names if name not in results)
        if absent and not self._told_absent:
            self._told_absent = True
            self.say(
                f'note: validation has no {absent}: there is no label for it, '
                'or of one class alone, or a prediction is not a number'
            )
        each = (f'{_words(name)} {results[name]:.4f}' for name in there)
        return f'  validation {", ".join(each)}' if there else ''

    def save(self, step: int) -> None:
        """Saves a checkpoint in the background, of a state that is finite.

        While updates are left out there is none but the last, so that older
        ones, of before, are kept.
        """
        row, finite = jax.device_get(self._look(self.state))
        if not finite or (row and step < self._config.steps):
            return
        position = self._batches.get_state()
        self._checkpoints.save(step, self.state, position)

    def improved(self, step: int) -> bool:
        """Whether a step is to be saved for its evaluation, the best so far."""
        return self._watch.improved(step)

    def ended(self) -> str | None:
        """Returns why the run ends before its last step, if it does."""
        return self._watch.ended()

    def wait(self) -> None:
        """Waits until all checkpoints are written."""
        self._checkpoints.close()

    @ending()
    def finalize(self, step: int) -> None:
        """Writes the workload's results of a finished run, once.

        Args:
          step: number of steps taken.
        """
        if self._finished:
            return
        texts = self._workload.finalize(
            self.state.variables, self._data, self._workdir
        )
        if self._main and texts:
            self._writer.write_texts(step, texts)
        steps = self._config.steps
        early = {'ended_early_at': step} if step < steps else {}
        self.record(history.FINISHED, step=steps, **early)

    def close(self) -> None:
        """Closes the files of metrics, and a trace that is open."""
        self._profile.close()
        self._writer.close()

    def record(self, event: str, **facts: Any) -> None:
        """Records an event of the run's history, in the first process."""
        if self._main:
            history.record(self._workdir, event, **facts)

    def say(self, line: str) -> None:
        """Prints a line, in the first process alone."""
        if self._main:
            print(line, flush=True)


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
      All metrics by name, without those that have no data; and those of the
      evaluation, which the first has as `eval/NAME`, beside its statistics of
      the mixtures, `eval/moe/LAYER/STATISTIC`.
    """
    has_data = lambda name: metrics.get(f'count/{name}', 1) > 0
    stats = metrics.get('moe', {}) if has_data('moe') else {}
    values = {
        name: float(value)
        for name, value in metrics.items()
        if name != 'moe' and not name.startswith('count/') and has_data(name)
    }
    values |= workload.layer_metrics(stats)
    if not evaluation:
        return values, {}
    results = metrics_of(workload, evaluation)
    found = results | routing_of(workload, evaluation)
    return values | {f'eval/{n}': v for n, v in found.items()}, results


def _devices() -> str:
    return f'{jax.device_count()} {jax.devices()[0].platform} device(s)'


def _words(name: str) -> str:
    return name.replace('_per_', '/').replace('_', ' ')
