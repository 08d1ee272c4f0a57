"""The data source of ArrayRecord shards of encoded images.

A record is a `tf.train.Example` with 'image', one encoded image, and 'label',
one int: what `moe.convert_images` and TensorFlow Datasets write.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from moe.config import ConfigError
from moe.workloads.data_cache import identity, kept, key_of
from moe.workloads.data_files import MANIFEST, by_number, matching, sampled_hash
from moe.workloads.vision.data.encoded import (
    FILES,
    Encoded,
    StreamedImages,
    StreamedSource,
)
from moe.workloads.vision.data.example_proto import read_example
from moe.workloads.vision.data.folder import Center
from moe.workloads.vision.data.sources import SOURCES, ValFraction
from moe.workloads.vision.data.splits import (
    TRAIN,
    by_content,
    split_named,
    split_word,
)

_UNREADABLE = (OSError, RuntimeError, ValueError, IndexError)


class Records(Encoded):
    """Records of shards.

    Args:
      paths: the shards.
      num_classes: labels are below it; None if that is not known.
      rows: int64 [N], which records; None for all.

    Raises:
      ValueError: and others, if a file is no shard.
    """

    def __init__(
        self,
        paths: Sequence[str],
        num_classes: int | None = None,
        rows: np.ndarray | None = None,
    ):
        self.paths, self._num_classes, self._rows = paths, num_classes, rows
        try:
            self._source = grain.sources.ArrayRecordDataSource(list(paths))
        except _UNREADABLE as error:
            raise _refused(paths[0], f'cannot be read: {error}') from None

    def __len__(self):
        return len(self._source) if self._rows is None else len(self._rows)

    def read(self, index):
        """Reads a record."""
        row = index if self._rows is None else int(self._rows[index])
        try:
            record = self._source[row]
        except _UNREADABLE as error:
            raise _refused(self.name(index), f'is damaged: {error}') from None
        return read_record(record, self.name(index), self._num_classes)

    def name(self, index):
        """Returns the number, and the first shard."""
        row = index if self._rows is None else int(self._rows[index])
        return f'record {row} from {self.paths[0]} on'

    def only(self, rows: np.ndarray, num_classes: int) -> 'Records':
        """Returns some of the records.

        Args:
          rows: their numbers.
          num_classes: labels are below it.
        """
        return Records(self.paths, num_classes, rows)


def read_record(
    record: bytes, name: str, num_classes: int | None = None
) -> tuple[bytes, int]:
    """Returns the encoded image and the label of a record.

    Args:
      record: a serialized `tf.train.Example`.
      name: where it lies, for messages.
      num_classes: the label is below it; None if that is not known.

    Raises:
      ConfigError: if it has not both, or another label.
    """
    try:
        found = read_example(record)
        (image,), (label,) = found['image'], found['label']
    except (ValueError, KeyError):
        what = 'is no tf.train.Example with one image and one label'
        raise _refused(name, what) from None
    if not isinstance(image, bytes) or not isinstance(label, int):
        raise _refused(name, 'has an image or a label of another kind')
    if label < 0 or (num_classes is not None and label >= num_classes):
        below = '' if num_classes is None else f' of {num_classes} classes'
        raise _refused(name, f'has the label {label}{below}')
    return image, label


@SOURCES.register('array_record')
@dataclasses.dataclass(frozen=True)
class ImageRecords(StreamedSource):
    """ArrayRecord shards whose records are `tf.train.Example`.

    They have 'image', one encoded image, and 'label', as `moe.convert_images`
    and TensorFlow Datasets write them, with `group_size:1`. Names with `train`
    have images to train on, those with `val`, `validation`, `valid` or `test`
    others. The classes are those of the folder's `manifest.json`,
    `label.labels.txt` or `features.json`; without one all labels are read once.

    Attributes:
      files: the folder, or a glob of shards.
      val_fraction: share of the images that validate, without shards for them;
        each by a hash of its bytes.
      center: share of the shorter side of an image that the central square
        has, which validation sees, and training without random crops.
    """

    files: str
    val_fraction: ValFraction = 0.25
    center: Center = 1.0

    def open(self):
        """Opens the shards."""
        paths = shards_of(self.files)
        names = classes_of(os.path.dirname(paths[0])) or ()
        known = len(names)
        parts: dict[str, list[str]] = {}
        for path in paths:
            parts.setdefault(split_word(path) or TRAIN[0], []).append(path)
        split = split_named(list(parts))
        if split is None:
            if len(parts) > 1 or next(iter(parts)) not in TRAIN:
                allowed = 'of shards to train on, with train in their names'
                raise ConfigError(FILES, self.files, allowed)
            every = Records(paths)
            count = known or _counted(every)
            validates, digest = by_content(
                paths,
                len(every),
                lambda i: every.read(i)[0],
                self.val_fraction,
            )
            rows = np.flatnonzero(~validates), np.flatnonzero(validates)
            train, val = (every.only(r, count) for r in rows)
            digest = f'{self.val_fraction} {digest}'
        else:
            train, val = (Records(parts[name]) for name in split)
            count = known or max(_counted(train), _counted(val))
            train, val = (Records(parts[name], count) for name in split)
            digest = _identity(self.files, split, parts)
        if all(name.isdecimal() for name in names):
            names = ()  # which tell no more than the labels
        return StreamedImages(train, val, count, self.center, digest, names)


def has_shards(files: str) -> bool:
    """Whether a folder has shards, or a glob names them, by their names."""
    names = os.listdir(files) if os.path.isdir(files) else [files]
    return any('array_record' in os.path.basename(name) for name in names)


def shards_of(files: str) -> list[str]:
    """Returns the shards that a folder or a glob names, in their order.

    Args:
      files: the folder, or a glob.

    Raises:
      ConfigError: if there are none.
    """
    if os.path.isdir(files):
        names = sorted(os.listdir(files), key=by_number)
        found = [n for n in names if 'array_record' in n and n[0] != '.']
        if not found:
            allowed = 'a folder of ArrayRecord shards (it has none)'
            raise ConfigError(FILES, files, allowed)
        return [os.path.join(files, name) for name in found]
    return sorted(matching(files, FILES), key=by_number)


def classes_of(folder: str, label: str = 'label') -> tuple[str, ...] | None:
    """Returns the names of the classes that a folder's own files tell.

    Args:
      folder: the folder, with our `manifest.json`, or the `label.labels.txt` or
        `features.json` of TensorFlow Datasets.
      label: name of the feature that is the label.

    Returns:
      In the order of the labels; the numbers where there are no names; None if
      the files tell nothing.
    """
    root = pathlib.Path(folder)
    known = _json(root / MANIFEST).get('classes')
    if isinstance(known, list):
        return tuple(map(str, known))
    try:
        return tuple((root / f'{label}.labels.txt').read_text().splitlines())
    except (OSError, UnicodeDecodeError):
        features = _json(root / 'features.json')
    try:
        found = features['featuresDict']['features'][label]['classLabel']
        return tuple(map(str, range(int(found['numClasses']))))
    except (KeyError, TypeError, ValueError):
        return None


def _json(path: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _counted(records: Records) -> int:
    """Returns the largest label and 1, of all records; kept in the cache."""

    def build(folder):
        labels = (records.read(i)[1] for i in range(len(records)))
        return {'classes': 1 + max(labels, default=-1)}

    key = key_of('labels', 1, identity(records.paths))
    return kept(key, build)[1]['classes']


def _identity(files: str, split: Sequence[str], parts: dict) -> str:
    """Returns a hash of the manifest's hashes of the shards, or of samples."""
    manifest = {}
    if os.path.isdir(files):
        manifest = _json(pathlib.Path(files) / MANIFEST)
    known = {}
    for shard in manifest.get('shards', ()):
        for name, about in shard['files'].items():
            known[name] = about['sha256']
    digest = hashlib.sha256()
    for part in split:
        for path in parts[part]:
            name = os.path.basename(path)
            about = known.get(name) or sampled_hash(path)
            digest.update(f'{part} {name} {about}\n'.encode())
    return digest.hexdigest()


def _refused(name: str, what: str) -> ConfigError:
    return ConfigError(FILES, name, f'of images ({name} {what})')
