"""`python -m moe.convert_images --files=PATH --out=DIR`: shards of images.

Reads folders of images, .npz, Parquet of Hugging Face's datasets, and records
of TensorFlow Datasets; writes ArrayRecord, which is streamed in training. What
is finished stays: the same command goes on where it ended.
"""

import itertools
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from moe.command_line import command, read_flags
from moe.config import ConfigError
from moe.workloads.data_cache import identity, key_of
from moe.workloads.vision.data.origins import (
    KINDS,
    Columns,
    Origin,
    Part,
    find_origin,
)
from moe.workloads.vision.data.shards import Shard, write_shard
from moe.workloads.written_shards import (
    grouped,
    new_folder,
    write_all,
    write_manifest,
)

_FLAGS = flags.FlagValues()
flags.DEFINE_string(
    'files', '', 'Folder of images, file, glob, or folder.', flag_values=_FLAGS
)
flags.DEFINE_string(
    'out',
    '',
    'Folder of the shards, new or of the same command.',
    flag_values=_FLAGS,
)
flags.DEFINE_enum(
    'kind',
    'auto',
    ['auto', *KINDS],
    'What the files are; auto: by names.',
    flag_values=_FLAGS,
)
flags.DEFINE_string(
    'image', 'image', "Name of the images' column.", flag_values=_FLAGS
)
flags.DEFINE_string(
    'label', 'label', "Name of the labels' column.", flag_values=_FLAGS
)
flags.DEFINE_float(
    'val_fraction',
    0.1,
    'Share of the images that validate, where no names say which.',
    0.0,
    0.5,
    flag_values=_FLAGS,
)
flags.DEFINE_integer(
    'shard_mib', 256, 'MiB of images for a shard.', 1, flag_values=_FLAGS
)
flags.DEFINE_integer(
    'processes', 0, 'How many; 0: one a core.', 0, flag_values=_FLAGS
)


@command('moe.convert_images')
def main(argv: list[str]) -> int:
    """Writes shards and `manifest.json`; returns the exit code.

    The manifest is written last: a folder that has it is whole.
    """
    read_flags(_FLAGS, argv)
    if not _FLAGS.files:
        raise ConfigError('--files', '', 'a folder, a file or a glob')
    if not _FLAGS.out:
        raise ConfigError('--out', '', 'a folder')
    size = _FLAGS.shard_mib * 2**20
    kind = None if _FLAGS.kind == 'auto' else _FLAGS.kind
    columns = Columns(_FLAGS.image, _FLAGS.label)
    origin = find_origin(_FLAGS.files, kind, columns, size)
    with new_folder(_FLAGS.out, '--out') as out:
        shards = _shards(out, origin, columns, size)
        entries = write_all(shards, write_shard, _FLAGS.processes, 'converting')
        found = _manifest(out, origin, entries)
    _tell(origin, found)
    return 0


def _tell(origin: Origin, found: dict[str, Any]) -> None:
    """Prints what there is, and the options of a run on it."""
    counts = ', '.join(f'{n:,} {s}' for s, n in found['images'].items())
    print(
        f'{counts} images of {len(found["classes"]):,} classes, '
        f'{found["image_bytes"] / 2**20:,.1f} MiB, in '
        f'{sum(len(entry["files"]) for entry in found["shards"])} shard(s)'
    )
    if origin.left_out:
        print('left out:', ', '.join(origin.left_out))
    low, high = found['sides']
    print(
        'train on them with --config.data.source.name=array_record '
        f'--config.data.source.files={_FLAGS.out} '
        f'--config.model.image_size={low if low == high else 224} '
        f'--config.model.channels={1 if found["gray"] else 3} '
        f'--config.model.num_classes={len(found["classes"])}'
    )


def _grouped(parts: Sequence[Part], size: int) -> list[list[Part]]:
    """Returns consecutive parts of one split, up to a size together."""
    runs = itertools.groupby(parts, lambda part: part.split)
    return [group for _, run in runs for group in grouped([*run], size)]


def _shards(
    out: pathlib.Path, origin: Origin, columns: Columns, size: int
) -> list[Shard]:
    """Returns the shards to write."""
    groups = _grouped(origin.parts, size)
    count = None if origin.classes is None else len(origin.classes)
    shards = []
    for split in (None, 'train', 'val'):
        mine = [group for group in groups if group[0].split == split]
        for i, group in enumerate(mine):
            paths = sorted(
                {
                    os.path.join(part.path, name)
                    for part in group
                    for name, _ in (part.items or (('', 0),))
                }
            )
            paths = [path.rstrip(os.sep) for path in paths]
            parts = [
                (part.kind, part.split, part.first, part.last, part.items)
                for part in group
            ]
            made_of = [parts, identity(paths), _FLAGS.val_fraction, count]
            made_of += [columns.image, columns.label]
            shards.append(
                Shard(
                    str(out),
                    f'{i:05}-of-{len(mine):05}',
                    split,
                    group,
                    columns,
                    count,
                    _FLAGS.val_fraction,
                    key_of('images', 1, made_of),
                )
            )
    return shards


def _manifest(
    out: pathlib.Path,
    origin: Origin,
    entries: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Writes the manifest; returns it."""
    made = [f for entry in entries for f in entry['files'].values()]
    images = {
        split: sum(f['images'] for f in made if f['split'] == split)
        for split in ('train', 'val')
    }
    if not images['train'] or not images['val']:
        lacking = 'val' if images['train'] else 'train'
        if lacking == 'train' or _FLAGS.val_fraction:
            allowed = f'a share that leaves images in {lacking} ({images})'
            raise ConfigError('--val_fraction', _FLAGS.val_fraction, allowed)
    counts: dict[str, dict[int, int]] = {split: {} for split in images}
    for about in made:
        found = counts[about['split']]
        for label, n in about['labels'].items():
            found[int(label)] = found.get(int(label), 0) + n
    classes = origin.classes
    if classes is None:
        largest = max(max(found, default=0) for found in counts.values())
        classes = tuple(map(str, range(largest + 1)))
    sides = [side for entry in entries for side in entry['sides']]
    manifest: dict[str, Any] = {
        'format': 'array_record',
        'record': "tf.train.Example with 'image' and 'label'",
        'classes': list(classes),
        'images': images,
        'images_by_class': {
            split: [found.get(i, 0) for i in range(len(classes))]
            for split, found in counts.items()
        },
        'sides': [min(sides), max(sides)],
        'gray': all(entry['gray'] for entry in entries),
        'image_bytes': sum(entry['image_bytes'] for entry in entries),
        'shards': list(entries),
    }
    write_manifest(out, manifest, 'train-*-of-*', 'val-*-of-*')
    return manifest


if __name__ == '__main__':
    sys.exit(main(sys.argv))
