"""`moe.checkpoints prune DIR --keep=N`: deletes older checkpoints."""

import pathlib
import shutil

from absl import flags

from moe.checkpoints.listing import find_set_aside
from moe.checkpoints.verify import find_damage
from moe.config import ConfigError, Damaged
from moe.training.lock import locked
from moe.training.restore import list_checkpoints

FLAGS = flags.FlagValues()
flags.DEFINE_integer(
    'keep',
    None,
    'How many of the newest good checkpoints stay.',
    1,
    flag_values=FLAGS,
)
flags.DEFINE_bool(
    'set_aside',
    False,
    'Delete also what was set aside, as damaged or after a divergence.',
    flag_values=FLAGS,
)


def run(workdir: pathlib.Path) -> int:
    """Deletes older checkpoints; those that are kept are verified before.

    Damaged ones that were not set aside stay as they are.

    Raises:
      ConfigError: without `--keep`, or if a run goes on in the folder.
      Damaged: if fewer are good; nothing is deleted then.
    """
    if FLAGS.keep is None:
        raise ConfigError('--keep', None, 'given')
    with locked(workdir):
        for path in _unwanted(workdir):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
            print(f'deleted {path}')
    return 0


def _unwanted(workdir: pathlib.Path) -> list[pathlib.Path]:
    kept, found = 0, []
    for entry in list_checkpoints(workdir):
        if kept < FLAGS.keep:
            kept += not find_damage(entry)
        elif not entry.damage:
            found.append(entry.path)
    if not kept:
        raise Damaged(f'no checkpoint of {workdir} is whole: none is deleted')
    if FLAGS.set_aside:
        found += find_set_aside(workdir)
    return found
