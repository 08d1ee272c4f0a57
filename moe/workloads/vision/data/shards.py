"""Writes shards of encoded images, in the format of `array_record`.

K classes.
"""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter

from moe.config import ConfigError
from moe.workloads.vision.data.encoded import opened
from moe.workloads.vision.data.example_proto import write_example
from moe.workloads.vision.data.origins import Columns, Part, read_part, refused
from moe.workloads.vision.data.splits import validates
from moe.workloads.written_shards import described, keep

_OPTIONS = 'group_size:1,uncompressed'  # images are compressed already
_MOST_LABELS = 2**31


@dataclasses.dataclass(frozen=True)
class Shard:
    """A shard that is to be written, or one of each split.

    Attributes:
      folder: where to.
      number: the end of its names, such as '00000-of-00004'.
      split: 'train' or 'val'; None for what is split by content.
      parts: the images.
      columns: names of image and label.
      num_classes: K; None if it is not known.
      val_fraction: share of the images that validate, if they are split.
      key: identifies all that it depends on.
    """

    folder: str
    number: str
    split: str | None
    parts: Sequence[Part]
    columns: Columns
    num_classes: int | None
    val_fraction: float
    key: str

    @property
    def record(self) -> pathlib.Path:
        """Returns the file that says that the shard is whole."""
        name = f'.{self.split or "both"}-{self.number}.json'
        return pathlib.Path(self.folder) / name

    @property
    def splits(self) -> tuple[str, ...]:
        """Returns those that it has images of."""
        return ('train', 'val') if self.split is None else (self.split,)


def write_shard(shard: Shard) -> dict[str, Any]:
    """Writes a shard, whole or not at all; every image is decoded once.

    Args:
      shard: what to write.

    Returns:
      JSON: for each of its `files` by name `split`, `images`, `bytes` and
      `sha256`, and `labels`, number of images by label; `sides`, the least and
      the largest number of pixels of a side; `gray`, whether all are grey; and
      `image_bytes`, of all encoded images.

    Raises:
      ConfigError: for an image or a label that cannot be used.
    """
    folder = pathlib.Path(shard.folder)
    beside, writers = {}, {}
    for split in shard.splits:
        beside[split] = folder / f'.{split}-{shard.number}.new'
        writers[split] = ArrayRecordWriter(str(beside[split]), _OPTIONS)
    labels: dict[str, collections.Counter] = {
        split: collections.Counter() for split in shard.splits
    }
    sides: set[int] = set()
    gray, size = True, 0
    for part in shard.parts:
        for data, label, name in read_part(part, shard.columns):
            image = _checked(shard, data, label, name)
            split = shard.split or (
                'val' if validates(data, shard.val_fraction) else 'train'
            )
            record = write_example({'image': data, 'label': label})
            writers[split].write(record)
            labels[split][label] += 1
            sides = {min(sides | {*image.size}), max(sides | {*image.size})}
            gray, size = gray and image.mode == 'L', size + len(data)
    made = {}
    for split, writer in writers.items():
        writer.close()
        count = sum(labels[split].values())
        name = f'{split}-{shard.number}.array_record'
        if not count:
            beside[split].unlink()
            (folder / name).unlink(missing_ok=True)
            continue
        made[name] = {
            'split': split,
            'images': count,
            'labels': {str(k): n for k, n in sorted(labels[split].items())},
            **described(beside[split]),
        }
        os.replace(beside[split], folder / name)
    entry = {
        'files': made,
        'sides': sorted(sides),
        'gray': gray,
        'image_bytes': size,
    }
    keep(shard, entry)
    return entry


def _checked(shard: Shard, data: bytes, label: int, name: str) -> Any:
    """Returns the decoded image; refuses what cannot be trained on."""
    known = shard.num_classes
    if not 0 <= label < (_MOST_LABELS if known is None else known):
        of = '' if known is None else f' of {known} classes'
        raise refused(name, f'has the label {label}{of}')
    try:
        return opened(data, name)
    except ConfigError as error:
        raise ConfigError('--files', error.value, error.allowed) from None
