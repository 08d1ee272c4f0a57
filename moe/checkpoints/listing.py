"""`moe.checkpoints list DIR`: every checkpoint, and whether it is good."""

import pathlib
import time

from absl import flags

from moe.checkpoints.verify import verified
from moe.training.restore import list_checkpoints

FLAGS = flags.FlagValues()
flags.DEFINE_bool(
    'records',
    False,
    'Look at the records alone, and do not read every leaf.',
    flag_values=FLAGS,
)


def run(workdir: pathlib.Path) -> int:
    """Prints step, date, size and soundness of each checkpoint; returns 0."""
    print(f'{"step":>10}  {"date":16}  {"size":>10}  good?')
    entries = list_checkpoints(workdir)
    records = ((entry, entry.damage) for entry in entries)
    good = 'not read' if FLAGS.records else 'yes'
    for entry, damage in records if FLAGS.records else verified(entries):
        told = f'no: {damage}' if damage else good
        _print(f'{entry.step:>10}', entry.path, told)
    for path in find_set_aside(workdir):
        _print(f'{"":>10}', path, f'set aside as {path.name}')
    return 0


def _print(step: str, path: pathlib.Path, good: str) -> None:
    date = time.strftime(
        '%Y-%m-%d %H:%M', time.localtime(path.lstat().st_mtime)
    )
    print(f'{step}  {date}  {_words(size(path)):>10}  {good}')


def find_set_aside(workdir: pathlib.Path) -> list[pathlib.Path]:
    """Returns what runs renamed: damaged, or followed by a divergence.

    Args:
      workdir: the run's folder.
    """
    folder = workdir / 'checkpoints'
    return sorted([*folder.glob('damaged-*'), *folder.glob('diverged-*')])


def size(path: pathlib.Path) -> int:
    """Returns the bytes of all files below a folder.

    Args:
      path: the folder; a file stands for itself.
    """
    files = path.rglob('*') if path.is_dir() else [path]
    return sum(p.lstat().st_size for p in files if not p.is_dir())


def _words(count: float) -> str:
    """Returns a number of bytes as text, such as '1.5 MB'."""
    for unit in ('B', 'kB', 'MB', 'GB'):
        if count < 1000:
            return f'{count:.3g} {unit}'
        count /= 1000
    return f'{count:.3g} TB'
