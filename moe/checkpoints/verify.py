"""`moe.checkpoints verify DIR`: reads and checks every leaf on the host."""

import os
import pathlib
from collections.abc import Iterable, Iterator

from absl import flags

from moe.config import ConfigError
from moe.progress import shown
from moe.training.arrays import read_leaf
from moe.training.record import Damage, read_record
from moe.training.restore import Entry, check_step, list_checkpoints

FLAGS = flags.FlagValues()
flags.DEFINE_integer(
    'step',
    None,
    'Step of the checkpoint; None verifies all.',
    flag_values=FLAGS,
)


def run(workdir: pathlib.Path) -> int:
    """Prints a line a checkpoint; returns 3 if any is damaged.

    Raises:
      ConfigError: for a folder without checkpoints, or none of the step.
    """
    entries = list_checkpoints(workdir)
    if not entries:
        allowed = 'the folder of a run with a checkpoint'
        raise ConfigError('DIR', str(workdir), allowed)
    check_step(FLAGS.step, sorted({entry.step for entry in entries}))
    code = 0
    wanted = [e for e in entries if FLAGS.step in (None, e.step)]
    for entry, damage in verified(wanted):
        print(damage or f'{entry.path} is whole: step {entry.step}')
        code = 3 if damage else code
    return code


def verified(
    entries: Iterable[Entry],
) -> Iterator[tuple[Entry, Damage | None]]:
    """Yields checkpoints with their damage, but those deleted meanwhile.

    Args:
      entries: the checkpoints; a run that goes on deletes the oldest.
    """
    for entry in entries:
        damage = find_damage(entry)
        if os.path.lexists(entry.path):
            yield entry, damage


def find_damage(entry: Entry) -> Damage | None:
    """Reads every leaf of a checkpoint and compares it with its checksum.

    Neither model nor devices are needed, and memory for one leaf.

    Args:
      entry: the checkpoint.

    Returns:
      The first damage; None if it is whole.
    """
    if entry.damage:
        return entry.damage
    try:
        leaves = read_record(entry.path).leaves
        with shown(str(entry.path), len(leaves), 'leaves') as reached:
            for count, (name, leaf) in enumerate(leaves.items()):
                reached(count)
                read_leaf(entry.path, name, leaf)
    except Damage as damage:
        return damage
    return None
