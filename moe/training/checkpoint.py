"""Checkpoints, written and read with Orbax."""

import contextlib
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp

from moe.config import ConfigError
from moe.parallel import with_shardings
from moe.training.config import Config
from moe.training.folder import FORMAT, check_format
from moe.training.step import TrainState, init_state
from moe.training.workload import Workload


class Checkpoints:
    """The checkpoints of a run: train state and position in the data.

    Args:
      workdir: the run's folder; checkpoints are in `checkpoints` below it.
      keep: how many of the newest checkpoints are kept; None keeps all.
    """

    def __init__(self, workdir: pathlib.Path, keep: int | None):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep)
        self._workdir = workdir
        self._manager = ocp.CheckpointManager(
            (workdir / 'checkpoints').resolve(), options=options
        )

    def latest(self) -> int | None:
        """Returns the step of the newest checkpoint, None if there is none."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, in order."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: TrainState, data: dict) -> None:
        """Writes a checkpoint in the background, unless the step has one.

        Args:
          step: number of steps taken.
          state: the train state, in any sharding.
          data: state of the data iterator, JSON.

        Raises:
          RuntimeError: if the checkpoint was not accepted.
        """
        if self.latest() == step:
            return
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state._asdict()),
            data=ocp.args.JsonSave({'format': FORMAT, 'position': data}),
        )
        if not self._manager.save(step, args=args, force=True):
            raise RuntimeError(f'checkpoint {step} was not saved')

    def restore(self, step: int, like: Any) -> tuple[TrainState, dict]:
        """Reads a checkpoint onto any mesh.

        Args:
          step: number of steps taken.
          like: a TrainState of `jax.ShapeDtypeStruct` with the shardings that
            the restored one shall have.

        Returns:
          The state, and the state of the data iterator.

        Raises:
          ConfigError: for a checkpoint of another format.
        """
        data = self._manager.restore(
            step, args=ocp.args.Composite(data=ocp.args.JsonRestore())
        ).data
        check_format(data.get('format'), self._workdir)
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(like._asdict())
        )
        restored = self._manager.restore(step, args=args)
        return TrainState(**restored.state), data['position']

    def close(self) -> None:
        """Waits until all checkpoints are written."""
        self._manager.close()


def saved_steps(workdir: pathlib.Path) -> list[int]:
    """Returns the steps of a run that have a checkpoint, in order.

    Args:
      workdir: the run's folder; nothing is written there.
    """
    if not (workdir / 'checkpoints').exists():
        return []
    with contextlib.closing(Checkpoints(workdir, keep=None)) as checkpoints:
        return checkpoints.steps()


def restore_run(
    config: Config,
    workdir: pathlib.Path,
    workload: Workload | None = None,
    step: int | None = None,
) -> TrainState:
    """Restores the state of a run on the first device, whatever its mesh was.

    Args:
      config: config of the run.
      workdir: the run's folder.
      workload: the workload, with its assets loaded; None makes the config's
        and loads them.
      step: step of the checkpoint; None is the newest.

    Returns:
      The state.

    Raises:
      ConfigError: if there is no checkpoint yet, or none of that step.
    """
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    if workload is None:
        workload = config.make_workload()
        workload.load_assets(workdir)
    shapes = jax.eval_shape(lambda: init_state(config, workload=workload))
    like = with_shardings(shapes, jax.tree.map(lambda _: device, shapes))
    steps = saved_steps(workdir)
    if not steps:
        allowed = 'the folder of a run with a checkpoint'
        raise ConfigError('workdir', str(workdir), allowed)
    check_step(step, steps)
    with contextlib.closing(Checkpoints(workdir, keep=None)) as checkpoints:
        return checkpoints.restore(step or steps[-1], like)[0]


def check_step(step: int | None, steps: Sequence[int]) -> None:
    """Refuses a step that has no checkpoint.

    Args:
      step: step of the checkpoint; None is the newest.
      steps: the steps that have a checkpoint.

    Raises:
      ConfigError: if the step has none.
    """
    if step is not None and step not in steps:
        known = ', '.join(map(str, steps)) or 'there is none'
        raise ConfigError('step', step, f'that of a checkpoint ({known})')
