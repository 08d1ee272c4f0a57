"""The training loop, and a run from its config to its folder."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
from jax.sharding import Mesh

from moe.config import ConfigError, to_plain
from moe.parallel import MeshConfig, host_of, make_mesh
from moe.paths import check_run_folder
from moe.training import folder
from moe.training.config import Config
from moe.training.processes import agreeing, check_same, ending, stop_signals
from moe.training.trainer import Diverged, MeshTrainer


@runtime_checkable
class Trainer(Protocol):
    """What the loop drives: one run, or several that are one program."""

    @property
    def start(self) -> int:
        """Number of steps taken before."""

    def advance(self) -> Any:
        """Takes a step; returns its metrics, on the device."""

    def evaluate(self) -> Any:
        """Evaluates the validation set; returns results on the device."""

    def log(self, step: int, metrics: Any, evaluation: Any) -> None:
        """Writes metrics that are on the host.

        Args:
          step: number of steps taken.
          metrics: metrics of `advance`.
          evaluation: results of `evaluate`; None without one.
        """

    def save(self, step: int) -> None:
        """Saves a checkpoint after a number of steps."""


def run(config: Config, workdir: pathlib.Path) -> bool:
    """Trains to the last step, resuming from the last checkpoint in `workdir`.

    Writes `config.json`, `data.json`, `metrics.jsonl`, `tensorboard/`,
    `checkpoints/` and at the end the workload's results. On SIGTERM or SIGINT
    it saves a checkpoint and stops. All processes of a run call it; the first
    one writes everything but the checkpoints.

    Args:
      config: config of the run, checked.
      workdir: the run's folder, made if absent.

    Returns:
      Whether the run is complete.

    Raises:
      ConfigError: for data or devices that do not fit the config, or a folder
        with a different run; nothing is written then.
      Diverged: if the loss is not finite.
    """
    # Impossible runs are refused before anything is written.
    plain = to_plain(type(config), config)
    with agreeing():
        check_run_folder(workdir)
        folder.check_same_config(workdir, config)
        workload = config.make_workload()
        data = workload.load_data()
        described = workload.describe_data(data)
        folder.check_same_data(workdir, described)
        mesh = make_mesh(config.mesh)
        config = on_mesh(config, mesh)
        notes = config.notes()
    check_same('config', plain)
    check_same('data', described)
    with agreeing():
        if jax.process_index() == 0:
            folder.write_description(workdir, plain, described)
            workload.save_assets(data, workdir)
    with agreeing():
        if not (workdir / folder.CONFIG).exists():
            allowed = 'one folder that all processes see'
            raise ConfigError('workdir', str(workdir), allowed)
    with jax.set_mesh(mesh), stop_signals() as stopping:
        trainer = MeshTrainer(config, workdir, workload, data, mesh)
        trainer.announce(described, notes)
        try:
            step = train(trainer, config, stopping)
        finally:
            trainer.wait()
        if step == config.steps:
            trainer.finalize()
        else:
            trainer.say(f'stopped at step {step}; the same command resumes it')
        trainer.close()
    return step == config.steps


@ending(Diverged)
def train(
    trainer: Trainer,
    config: Config,
    stopping: Callable[[int], bool] = lambda step: False,
) -> int:
    """Takes steps until the end or a signal: the one training loop.

    Args:
      trainer: the trainer of one run, or of vmapped ones.
      config: config of the run, with the intervals of logging, evaluation and
        checkpoints.
      stopping: whether to stop, called before every step with its number.

    Returns:
      The number of steps taken.
    """
    step = trainer.start
    pending: list[tuple[int, Any, Any]] = []

    def write_pending():
        for number, metrics, evaluation in pending:
            trainer.log(number, *jax.device_get((metrics, evaluation)))
        pending.clear()

    while step < config.steps and not stopping(step):
        metrics = trainer.advance()
        step += 1
        # Only now: the device is busy with the step just started.
        write_pending()
        last = step == config.steps
        evaluation = None
        if last or step % config.eval_every == 0:
            evaluation = trainer.evaluate()
        if evaluation or step == 1 or step % config.log_every == 0:
            pending.append((step, metrics, evaluation))
        if last or step % config.checkpoint_every == 0:
            trainer.save(step)
    write_pending()
    if step < config.steps:
        trainer.save(step)
    return step


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
    config.check_platform(mesh.devices.flat[0].platform)
    host_of(mesh)
    return config
