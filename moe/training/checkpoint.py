"""The one place that writes and reads checkpoints."""

import contextlib
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from moe.config import ConfigError
from moe.parallel import with_shardings
from moe.training.config import Config
from moe.training.step import TrainState, init_state
from moe.training.workload import Task


class Checkpoints:
    """Checkpoints of a run: the train state and the position in the data.

    Args:
      workdir: of the run; they live in its folder `checkpoints`.
      keep: how many of the newest to keep; None keeps all.
    """

    def __init__(self, workdir: pathlib.Path, keep: int | None):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep)
        self._manager = ocp.CheckpointManager(
            (workdir / 'checkpoints').resolve(), options=options
        )

    def latest(self) -> int | None:
        """The step of the newest checkpoint, None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, data: dict) -> None:
        """Writes in the background; a step that exists is left as it is.

        Args:
          step: number of the step.
          state: of the run, any sharding.
          data: state of the data iterator, JSON.

        Raises:
          RuntimeError: if the checkpoint was not accepted.
        """
        if self.latest() == step:
            return
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state._asdict()),
            data=ocp.args.JsonSave(data),
        )
        if not self._manager.save(step, args=args, force=True):
            raise RuntimeError(f'checkpoint {step} was not saved')

    def restore(self, step: int, like: Any) -> tuple[TrainState, dict]:
        """Reads a checkpoint onto any mesh.

        Args:
          step: number of the step.
          like: a TrainState of shapes with the shardings wanted.

        Returns:
          The state, and the state of the data iterator.
        """
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(like._asdict()),
            data=ocp.args.JsonRestore(),
        )
        restored = self._manager.restore(step, args=args)
        return TrainState(**restored.state), restored.data

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.close()


def restore_run(
    config: Config, workdir: pathlib.Path, task: Task | None = None
) -> TrainState:
    """The newest state of a run, on the first device, whatever its mesh was.

    Args:
      config: of the run.
      workdir: the run's folder.
      task: restored from it; None restores the config's.

    Returns:
      The state.

    Raises:
      ConfigError: if there is no checkpoint yet.
    """
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    task = task or config.make_task().restored(workdir)
    shapes = jax.eval_shape(lambda: init_state(config, task=task))
    like = with_shardings(shapes, jax.tree.map(lambda _: device, shapes))
    with contextlib.closing(Checkpoints(workdir, keep=None)) as checkpoints:
        step = checkpoints.latest()
        if step is None:
            allowed = 'the folder of a run with a checkpoint'
            raise ConfigError('workdir', str(workdir), allowed)
        return checkpoints.restore(step, like)[0]
