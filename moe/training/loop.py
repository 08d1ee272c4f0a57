"""The training loop, and a run from its config to its folder."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import jax
from jax.sharding import Mesh

from moe import progress
from moe.config import ConfigError, to_plain
from moe.parallel import MeshConfig, host_of, make_mesh
from moe.paths import check_run_folder
from moe.sinks import check_wandb
from moe.training import folder, history
from moe.training.clock import Clock
from moe.training.config import Config
from moe.training.host import check_deterministic
from moe.training.lock import locked
from moe.training.memory import check_memory
from moe.training.processes import agreeing, check_same, ending
from moe.training.restore import check_any_fits, list_checkpoints
from moe.training.step import init_state
from moe.training.stopping import Stop, Stopped, stop_signals
from moe.training.trainer import Diverged, MeshTrainer
from moe.training.warm_start import check_init_from


@runtime_checkable
class Trainer(Protocol):
    """What the loop drives: one run, or several that are one program."""

    @property
    def start(self) -> int:
        """Number of steps taken before."""

    def advance(self) -> Any:
        """Takes a step; returns its metrics, on the device."""

    @property
    def clock(self) -> Clock:
        """The clock of the time in training."""

    def evaluate(self) -> Iterator[Any]:
        """Yields the result of each validation batch, on the device."""

    def log(self, step: int, metrics: Any, evaluation: Any) -> None:
        """Writes metrics that are on the host.

        Args:
          step: number of steps taken.
          metrics: metrics of `advance`.
          evaluation: results of `evaluate`; None without one.
        """

    def save(self, step: int) -> None:
        """Saves a checkpoint after a number of steps."""

    def improved(self, step: int) -> bool:
        """Whether a step is to be saved for its evaluation."""

    def ended(self) -> str | None:
        """Returns why the run ends before its last step; None if it does not.

        It is known when the metrics of the last evaluation were logged.
        """


def run(config: Config, workdir: pathlib.Path) -> bool:
    """Trains to the last step, resuming from the last checkpoint in `workdir`.

    Writes `config.json`, `data.json`, `history.jsonl`, `metrics.jsonl`,
    `tensorboard/`, `checkpoints/` and at the end the workload's results. On
    SIGTERM or SIGINT it saves a checkpoint and stops. All processes of a run
    call it; the first one writes everything but the checkpoints.

    Args:
      config: config of the run, checked.
      workdir: the run's folder, made if absent.

    Returns:
      Whether the run is complete.

    Raises:
      ConfigError: for data or devices that do not fit the config, or a folder
        with a different run, or with one that goes on; nothing is written
        then.
      Diverged: if the loss is not finite.
    """
    with stop_signals() as stop, contextlib.ExitStack() as held:
        try:
            return _run(config, workdir, stop, held)
        except Stopped:
            if (workdir / history.NAME).exists():
                history.record(workdir, history.STOPPED)
            print('stopped; the same command resumes it', flush=True)
            return False


def _run(
    config: Config,
    workdir: pathlib.Path,
    stop: Stop,
    held: contextlib.ExitStack,
) -> bool:
    """Trains, and holds the folder's lock until `held` ends."""
    plain = to_plain(type(config), config)
    main = jax.process_index() == 0
    # Impossible runs are refused before anything is written.
    with agreeing():
        check_run_folder(workdir)
        check_wandb(config.wandb)
        there = workdir.is_dir()
        if main and there:
            held.enter_context(locked(workdir))
        changes = folder.check_same_config(workdir, config)
        workload = config.make_workload()
        with progress.shown('loading data', active=main):
            data = workload.load_data()
        described = workload.describe_data(data)
        folder.check_same_data(workdir, described)
        mesh = make_mesh(config.mesh)
        config = on_mesh(config, mesh)
        check_memory(config, workload, mesh)
        make = lambda: init_state(config, workload=workload)
        copied = not (workdir / folder.CONFIG).exists()
        if copied and (workdir / 'checkpoints').exists():
            check_any_fits(workdir, jax.eval_shape(make))
        if config.init_from and not list_checkpoints(workdir):
            like = jax.eval_shape(make)
            check_init_from(config, workload, workdir, described, like)
        notes = [*config.notes(), *workload.notes(data)]
    check_same('config', plain)
    check_same('data', described)
    with agreeing():
        if main:
            if not there:
                held.enter_context(locked(workdir))
            if changes:
                history.record(workdir, history.CHANGED, changes=changes)
            folder.write_description(workdir, plain, described)
            workload.save_assets(data, workdir)
    with agreeing():
        if not (workdir / folder.CONFIG).exists():
            allowed = 'one folder that all processes see'
            raise ConfigError('workdir', str(workdir), allowed)
    with jax.set_mesh(mesh):
        with progress.shown('making or restoring the state', active=main):
            trainer = MeshTrainer(config, workdir, workload, data, mesh)
        with contextlib.closing(trainer):
            trainer.announce(described, notes)
            return _trained(trainer, config, stop)


def _trained(trainer: MeshTrainer, config: Config, stop: Stop) -> bool:
    """Trains to the end or a signal; returns whether the run is complete."""
    main = jax.process_index() == 0
    try:
        with stop.asked_for():
            try:
                _make_up(trainer, stop)
                step = train(trainer, config, stop)
            finally:
                with progress.shown('writing the checkpoint', active=main):
                    trainer.wait()
    except Diverged as error:
        trainer.record(history.DIVERGED, reason=str(error))
        raise
    early = None if stop.decided else trainer.ended()
    if early and step < config.steps:
        trainer.say(f'ends at step {step}: {early}')
    if (step == config.steps or early) and not stop.decided:
        with progress.shown('results', active=main):
            trainer.finalize(step)
        return True
    trainer.say(f'stopped at step {step}; the same command resumes it')
    trainer.record(history.STOPPED, step=step)
    return False


@ending()
def _make_up(trainer: MeshTrainer, stop: Stop) -> None:
    """Evaluates where it resumes, if a signal interrupted that."""
    if trainer.owes_evaluation:
        evaluation = evaluated(trainer, stop)
        if evaluation is not None:
            trainer.complete(jax.device_get(evaluation))


@ending(Diverged)
def train(
    trainer: Trainer,
    config: Config,
    stopping: Callable[[], bool] = lambda: False,
) -> int:
    """Takes steps until the end or a signal: the one training loop.

    Args:
      trainer: the trainer of one run, or of vmapped ones.
      config: config of the run, with the intervals of logging, evaluation and
        checkpoints.
      stopping: whether to stop, called before every step and after every batch
        of an evaluation.

    Returns:
      The number of steps taken.
    """
    step, clock = trainer.start, trainer.clock
    pending: list[tuple[int, Any, Any]] = []

    def write_pending(newest):
        for number, metrics, evaluation in pending:
            found = jax.device_get((metrics, evaluation))
            # Without asynchronous devices the step after it is over, too.
            clock.reached(step if _ready(newest) else number)
            trainer.log(number, *found)
        pending.clear()

    early = trainer.ended()
    while step < config.steps and not early and not stopping():
        metrics = trainer.advance()
        step += 1
        # Only now: the device is busy with the step just started.
        write_pending(metrics)
        last = step == config.steps
        due = last or step % config.eval_every == 0
        saves = last or step % config.checkpoint_every == 0
        if due or saves or step == trainer.start + 1:
            jax.block_until_ready(metrics)
            clock.reached(step)
        with clock.stopped():
            evaluation = evaluated(trainer, stopping) if due else None
            if due or step == 1 or step % config.log_every == 0:
                pending.append((step, metrics, evaluation))
            judged = due and (config.best.keep or config.best.patience)
            if saves or judged:
                # First, so that no checkpoint is ahead of its metrics.
                write_pending(metrics)
                early = trainer.ended()
            if saves or (judged and trainer.improved(step)):
                trainer.save(step)
    with clock.stopped():
        write_pending(())
        if step < config.steps:
            trainer.save(step)
    return step


def evaluated(
    trainer: Trainer, stopping: Callable[[], bool]
) -> list[Any] | None:
    """Evaluates the validation set.

    Args:
      trainer: the trainer.
      stopping: whether to stop, called after every batch.

    Returns:
      Results on the devices; None if it was stopped.
    """
    results: list[Any] = []
    main = jax.process_index() == 0
    with progress.shown('evaluation', unit='batches', active=main) as reach:
        for result in trainer.evaluate():
            # The one before: a queue of batches would keep signals waiting.
            jax.block_until_ready(results[-1:])
            reach(len(results))
            results.append(result)
            if stopping():
                return None
        return jax.block_until_ready(results)


def _ready(arrays: Any) -> bool:
    return all(array.is_ready() for array in jax.tree.leaves(arrays))


def on_mesh(config: Config, mesh: Mesh) -> Config:
    """Returns the config with all sizes of the mesh, checked again.

    Args:
      config: config of the run.
      mesh: the device mesh.

    Raises:
      ConfigError: for a batch, or kernels, that do not fit the devices.
    """
    try:
        config = dataclasses.replace(config, mesh=MeshConfig(**mesh.shape))
    except ConfigError as error:
        raise error.inside('config') from None
    config.check_batch(mesh.shape)
    platform = mesh.devices.flat[0].platform
    config.check_platform(platform)
    if config.deterministic:
        check_deterministic(platform)
    host_of(mesh)
    return config
