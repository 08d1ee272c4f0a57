"""`moe.checkpoints verify DIR`: reads and checks every leaf on the host."""

import pathlib
import sys
import time

from absl import flags

from moe.config import ConfigError
from moe.training.arrays import verify_leaf
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
    for entry in entries:
        if FLAGS.step in (None, entry.step):
            damage = find_damage(entry)
            print(damage or f'{entry.path} is whole: step {entry.step}')
            code = 3 if damage else code
    return code


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
        for count, (name, leaf) in enumerate(leaves.items()):
            _progress(f'{entry.path}: {count}/{len(leaves)} leaves')
            verify_leaf(entry.path, name, leaf)
    except Damage as damage:
        return damage
    finally:
        _progress('')
    return None


_last = 0.0


def _progress(line: str) -> None:
    """Shows a line on a terminal, ten times a second; '' removes it."""
    global _last
    now = time.monotonic()
    if sys.stderr.isatty() and (not line or now > _last + 0.1):
        _last = now
        print(f'\r{line}\x1b[K', end='', file=sys.stderr, flush=True)
