"""Reading checkpoints: every leaf is verified, and damage is told apart.

The step that stands in a checkpoint's record decides, not its folder's name.
Nothing here writes.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from moe.config import ConfigError, Damaged
from moe.training.arrays import read_state
from moe.training.checksum import device_checksums
from moe.training.processes import agreeing, gather
from moe.training.record import (
    Damage,
    Record,
    describe_leaves,
    read_record,
    with_checksums,
)
from moe.training.step import TrainState

T = TypeVar('T')


class Entry(NamedTuple):
    """One folder of `checkpoints/`, by its record alone.

    Attributes:
      path: the folder.
      step: the step of its record; that of its name if that cannot be read.
      damage: why its record cannot be read; None if it can.
    """

    path: pathlib.Path
    step: int
    damage: Damage | None = None


class Restored(NamedTuple):
    """A checkpoint that was read and verified.

    Attributes:
      state: the train state.
      position: state of the data iterator.
    """

    state: TrainState
    position: Any

    @property
    def step(self) -> int:
        """Returns the number of steps taken."""
        return int(self.state.step)


def list_checkpoints(workdir: pathlib.Path) -> list[Entry]:
    """Reads the records of a run's checkpoints.

    Args:
      workdir: the run's folder.

    Returns:
      What is named like a step in `checkpoints/`, the newest first; what is
      half-written or set aside is named otherwise.

    Raises:
      ConfigError: for files that may not be read, or of another format.
    """
    folder = workdir / 'checkpoints'
    try:
        paths = [p for p in folder.iterdir() if p.name.isdecimal()]
    except FileNotFoundError:
        return []
    except OSError as error:
        allowed = f'a folder whose checkpoints/ can be read ({error.strerror})'
        raise ConfigError('workdir', str(workdir), allowed) from None
    entries = [_entry(path) for path in paths]
    named = lambda entry: entry.path.name == str(entry.step)
    return sorted(entries, key=lambda e: (e.step, named(e)), reverse=True)


def _entry(path: pathlib.Path) -> Entry:
    try:
        return Entry(path, read_record(path).step)
    except Damage as damage:
        return Entry(path, int(path.name), damage)


def restore_newest(
    workdir: pathlib.Path,
    entries: Sequence[Entry],
    read: Callable[[pathlib.Path], T],
) -> tuple[T, list[Damage]]:
    """Reads the newest checkpoint that is whole, in all processes the same.

    Args:
      workdir: the run's folder.
      entries: checkpoints to choose from, in the order of preference.
      read: reads a checkpoint's folder, such as `restore`.

    Returns:
      What was read; and the damage of those entries that were found damaged.

    Raises:
      Damaged: if none is whole.
      ConfigError: if there are only those of another model, or for files that
        may not be read.
    """
    damages = [entry.damage for entry in entries if entry.damage]
    for entry in entries:
        if not entry.damage:
            try:
                return read(entry.path), damages
            except Damage as damage:
                damages.append(damage)
    raise _none_left(workdir, damages)


def _none_left(workdir: pathlib.Path, damages: Sequence[Damage]) -> Exception:
    if all(damage.of_another_model for damage in damages):
        allowed = f"a folder with this config's checkpoints: {damages[0]}"
        return ConfigError('workdir', str(workdir), allowed)
    more = f', and so are {len(damages) - 1} more' if damages[1:] else ''
    return Damaged(
        f'{damages[0]}{more} (python -m moe.checkpoints verify {workdir} tells '
        'which are whole)'
    )


def check_any_fits(workdir: pathlib.Path, like: TrainState) -> None:
    """Refuses checkpoints of which none is of a model, by their records.

    Args:
      workdir: the run's folder, which need not exist.
      like: a TrainState of `jax.ShapeDtypeStruct`.

    Raises:
      Damaged, ConfigError: as `restore_newest` does.
    """
    damages = []
    for entry in list_checkpoints(workdir):
        try:
            if entry.damage:
                raise entry.damage
            return _check_model(entry.path, read_record(entry.path), like)
        except Damage as damage:
            damages.append(damage)
    if damages:
        raise _none_left(workdir, damages)


def restore(folder: pathlib.Path, like: TrainState) -> Restored:
    """Reads a checkpoint onto any mesh, and verifies every leaf.

    Args:
      folder: the checkpoint's folder.
      like: a TrainState of `jax.ShapeDtypeStruct` with the shardings that the
        restored one shall have.

    Returns:
      The state and the position in the data.

    Raises:
      Damage: if the checkpoint is not whole, or not of this model.
      ConfigError: for files that may not be read, or of another format.
    """

    def choose(record):
        _check_model(folder, record, like)
        return like

    record, state = read_leaves(folder, choose)
    if int(state.step) != record.step:
        raise Damage(str(folder), 'leaf step', f'is not {record.step}')
    return Restored(state, record.position)


def restore_variables(folder: pathlib.Path, like: TrainState) -> dict[str, Any]:
    """Reads the variables to evaluate alone, and verifies them.

    Args:
      folder: the checkpoint's folder.
      like: a TrainState of `jax.ShapeDtypeStruct`, see `restore`.

    Returns:
      The variables: 'params', averaged if the run averages them, and those
      without gradient.

    Raises:
      Damage, ConfigError: as `restore` does.
    """
    kind = 'params' if like.average is None else 'average'
    wanted = {
        kind: like.variables['params'],
        'model_state': like.model_state,
    }

    def choose(record):
        own = lambda name: name.partition('/')[0] in wanted
        leaves = {n: leaf for n, leaf in record.leaves.items() if own(n)}
        _check_model(folder, record._replace(leaves=leaves), wanted)
        return wanted

    _, found = read_leaves(folder, choose)
    return {'params': found[kind], **found['model_state']}


def read_leaves(
    folder: pathlib.Path, choose: Callable[[Record], Any]
) -> tuple[Record, Any]:
    """Reads leaves of a checkpoint onto any mesh, and verifies each.

    Args:
      folder: the checkpoint's folder.
      choose: returns for the record a tree of `jax.ShapeDtypeStruct` with
        shardings, whose leaves are named like those to read.

    Returns:
      The record, and the tree of arrays.

    Raises:
      Damage: if one of the leaves is not whole.
      ConfigError: for files that may not be read, or of another format.
    """

    def read():
        record = read_record(folder)
        return record, read_state(folder, record, choose(record))

    record, tree = _agreed(read)
    checksums = np.asarray(device_checksums(tree))
    found = with_checksums(describe_leaves(tree), checksums)
    for name, leaf in found.items():
        if record.leaves[name] != leaf:
            reason = 'does not have its checksum'
            raise Damage(str(folder), f'leaf {name}', reason)
    return record, tree


def _check_model(folder: pathlib.Path, record: Record, like: Any) -> None:
    """Refuses a checkpoint that has other leaves than the state."""
    wanted = describe_leaves(like)
    for name in sorted(wanted.keys() | record.leaves.keys()):
        old, new = (
            f'{leaf.dtype}{list(leaf.shape)}' if leaf else 'absent'
            for leaf in (record.leaves.get(name), wanted.get(name))
        )
        if old != new:
            place, reason = f'leaf {name}', f'is {old} there and {new} here'
            raise Damage(str(folder), place, reason, of_another_model=True)


def _agreed(call: Callable[[], T]) -> T:
    """Calls in all processes; Damage in any of them is raised in all."""
    found, damage = [], None
    with agreeing():
        try:
            found.append(call())
        except Damage as error:
            damage = error
    for plain in gather(damage and damage.plain):
        if plain:
            raise Damage(*plain) from None
    return found[0]


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
