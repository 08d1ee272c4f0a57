"""Checkpoints of a run: written by Orbax, damaged ones set aside."""

import functools
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp

from moe.config import ConfigError, Damaged
from moe.parallel import with_shardings
from moe.training.checksum import device_checksums
from moe.training.config import Config
from moe.training.host import one_at_a_time
from moe.training.processes import agreeing, check_same
from moe.training.record import Damage, Record, RecordSave, describe_leaves
from moe.training.restore import (
    Restored,
    check_step,
    list_checkpoints,
    restore,
    restore_newest,
)
from moe.training.step import TrainState, init_state
from moe.training.watch import Kept, Watch
from moe.training.workload import Workload

# In the names of folders that Orbax has not finished.
UNFINISHED = '.orbax-checkpoint-tmp'


def _print_error(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Manager(ocp.CheckpointManager):
    """Leaves signals to the run, which looks at more points than steps."""

    def reached_preemption(self, step: int) -> bool:
        """Does not ask JAX, which would take a step for one of the points."""
        return False


class Checkpoints:
    """The checkpoints of a run: train state and position in the data.

    Args:
      workdir: the run's folder; checkpoints are in `checkpoints` below it.
      keep: how many of the newest checkpoints are kept; None keeps all.
      tell: prints a line about what was found damaged.
      watch: knows the best checkpoints, which are kept too.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        keep: int | None,
        tell: Callable[[str], None] = _print_error,
        watch: Watch | None = None,
    ):
        self._watch = watch
        self._workdir, self._keep, self._tell = workdir, keep, tell
        self._damages: Sequence[Damage] = ()

    def resume(self, like: TrainState) -> Restored | None:
        """Reads the newest checkpoint that is whole; sets damaged ones aside.

        Args:
          like: a TrainState of `jax.ShapeDtypeStruct` with the shardings that
            the restored one shall have.

        Returns:
          What was read; None for a run without checkpoints.

        Raises:
          Damaged: if there are checkpoints, but none is whole; then nothing is
            changed.
          ConfigError: for a folder that cannot be read or written, or has
            checkpoints of another format or model alone.
        """
        with agreeing():
            entries = list_checkpoints(self._workdir)
        names = {e.path.name: e.step for e in entries}
        check_same('workdir', {'checkpoints': names})
        found, self._damages = None, ()
        if entries:
            found, self._damages = restore_newest(
                self._workdir, entries, lambda path: restore(path, like)
            )
        self._manager  # noqa: B018 - sets aside before anything is written
        return found

    def watched(self, watch: Watch) -> None:
        """Keeps the best checkpoints too, from now on.

        Args:
          watch: knows which they are.
        """
        self.close()
        self._watch = watch

    def save(self, step: int, state: TrainState, data: Any) -> None:
        """Writes a checkpoint in the background, unless the step has one.

        The checksums are computed on the devices meanwhile.

        Args:
          step: number of steps taken, that of the state.
          state: the train state, in any sharding.
          data: state of the data iterator, JSON.

        Raises:
          RuntimeError: if the checkpoint was not accepted.
        """
        if self._manager.latest_step() == step:
            return
        checksums = one_at_a_time(device_checksums)(state)
        record = Record(step, data, describe_leaves(state))
        arrays = {n: x for n, x in state._asdict().items() if x is not None}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays),
            data=RecordSave(record, checksums),
        )
        if not self._manager.save(step, args=args, force=True):
            raise RuntimeError(f'checkpoint {step} was not saved')

    def leave(self, step: int) -> None:
        """Sets aside the checkpoints of a run that diverged from a step on.

        Args:
          step: number of steps after which no loss was finite.
        """
        self.close()
        with agreeing():
            if jax.process_index() == 0:
                for entry in list_checkpoints(self._workdir):
                    if entry.step >= step:
                        line = f'after {entry.path} the run diverged'
                        self._set_aside(entry.path, line, 'diverged')

    def close(self) -> None:
        """Waits until all checkpoints are written."""
        manager = self.__dict__.pop('_manager', None)
        if manager:
            manager.close()

    @functools.cached_property
    def _manager(self) -> ocp.CheckpointManager:
        with agreeing():
            if jax.process_index() == 0:
                try:
                    self._tidy()
                except OSError as error:
                    allowed = f'a folder that can be written ({error})'
                    at = str(self._workdir)
                    raise ConfigError('workdir', at, allowed) from None
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if self._watch else self._keep,
            preservation_policy=self._watch
            and Kept(self._keep or sys.maxsize, self._watch),
            lightweight_initialize=True,
        )
        folder = (self._workdir / 'checkpoints').resolve()
        return _Manager(folder, options=options)

    def _tidy(self) -> None:
        """Leaves only whole checkpoints under the names of their steps."""
        folder = self._workdir / 'checkpoints'
        for path in sorted(folder.glob(f'*{UNFINISHED}*')):
            if not path.name.startswith('damaged-'):
                self._set_aside(path, f'{path} is half-written')
        found = {damage.folder: str(damage) for damage in self._damages}
        entries = list_checkpoints(self._workdir)
        found |= {e.path: str(e.damage) for e in entries if e.damage}
        for path, line in found.items():
            self._set_aside(path, line)
        for entry in entries:
            place = folder / str(entry.step)
            if entry.path in found or entry.path == place:
                continue
            line = f'{entry.path} holds step {entry.step}'
            if place.exists():
                self._set_aside(entry.path, line)
            else:
                entry.path.rename(place)
                self._tell(f'{line}; renamed to {place.name}')

    def _set_aside(
        self, path: pathlib.Path, line: str, what: str = 'damaged'
    ) -> None:
        name = f'{what}-{path.name}'
        free, count = path.with_name(name), 1
        while free.exists() or free.is_symlink():
            count += 1
            free = path.with_name(f'{name}-{count}')
        path.rename(free)
        self._tell(f'{line}; set aside as checkpoints/{free.name}')


def saved_steps(workdir: pathlib.Path) -> list[int]:
    """Returns the steps of a run that have a checkpoint, in order.

    Args:
      workdir: the run's folder; nothing is written there.
    """
    return sorted({entry.step for entry in list_checkpoints(workdir)})


def restore_run(
    config: Config,
    workdir: pathlib.Path,
    workload: Workload | None = None,
    step: int | None = None,
) -> TrainState:
    """Restores the state of a run on the first device, whatever its mesh was.

    Args:
      config: config of the run.
      workdir: the run's folder; nothing is written there.
      workload: the workload, with its assets loaded; None makes the config's
        and loads them.
      step: step of the checkpoint; None is the newest that is whole, and those
        that are damaged are told on the standard error.

    Returns:
      The state.

    Raises:
      ConfigError: if there is no checkpoint yet, or none of that step.
      Damaged: if that checkpoint, or all of them, are damaged.
    """
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    if workload is None:
        workload = config.make_workload()
        workload.load_assets(workdir)
    shapes = jax.eval_shape(lambda: init_state(config, workload=workload))
    like = with_shardings(shapes, jax.tree.map(lambda _: device, shapes))
    entries = list_checkpoints(workdir)
    if not entries:
        allowed = 'the folder of a run with a checkpoint'
        raise ConfigError('workdir', str(workdir), allowed)
    if step is not None:
        check_step(step, sorted({entry.step for entry in entries}))
        entries = [entry for entry in entries if entry.step == step]
    try:
        found, damages = restore_newest(
            workdir, entries, lambda path: restore(path, like)
        )
    except Damaged:
        if all(entry.path.exists() for entry in entries):
            raise
        # The run goes on, and has newer ones.
        return restore_run(config, workdir, workload, step)
    for damage in damages:
        if damage.folder.exists():
            _print_error(f'{damage}; step {found.step} is used')
    return found.state
