"""What images are converted from: folders, arrays, Parquet, TFDS.

Parquet is that of Hugging Face's datasets: a column of images, each
`{bytes, path}` or bytes alone, and one of labels, whose names are in the
schema's metadata. TFDS are the records of TensorFlow Datasets, in TFRecord or
ArrayRecord, with `features.json` and `label.labels.txt` beside them; none of
them is executed, and TensorFlow is not needed.
"""

import dataclasses
import json
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np

from moe.config import ConfigError
from moe.workloads.data_files import UNREADABLE, by_number, matching, opened
from moe.workloads.lm.data.documents import parquet_file
from moe.workloads.vision.data.array_record import classes_of
from moe.workloads.vision.data.encoded import encoded_png
from moe.workloads.vision.data.example_proto import read_example
from moe.workloads.vision.data.folder import list_images, looks_like_images
from moe.workloads.vision.data.sources import read_arrays
from moe.workloads.vision.data.splits import TRAIN, VAL, split_named, split_word

KINDS = ('folder', 'npz', 'parquet', 'tfrecord', 'array_record')
FIELD = '--files'

_LENGTH = struct.Struct('<QI')  # of a record of TFRecord, and its checksum
_CHECKSUM = 4  # bytes after it
_AT_ONCE = 256  # rows of Parquet

# An encoded image, its label, and where it lies.
Found = tuple[bytes, int, str]


@dataclasses.dataclass(frozen=True)
class Part:
    """Some images, which are read by themselves.

    Attributes:
      kind: one of `KINDS`.
      path: path of the file, or the folder of all files.
      split: 'train' or 'val'; None for what is split by content.
      size: bytes, about.
      first: first row, or group of rows.
      last: the one after the last; -1 for all.
      items: name below the folder, and label, of each file.
    """

    kind: str
    path: str
    split: str | None
    size: int
    first: int = 0
    last: int = -1
    items: tuple[tuple[str, int], ...] = ()


@dataclasses.dataclass(frozen=True)
class Origin:
    """The images that are to be converted.

    Attributes:
      parts: all of them, those to train on first.
      classes: names of the classes; None if they are not known.
      left_out: names of splits beside the two that are taken.
    """

    parts: tuple[Part, ...]
    classes: tuple[str, ...] | None
    left_out: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of the features of a record, or the columns of Parquet.

    Attributes:
      image: that of the image.
      label: that of the label.
    """

    image: str = 'image'
    label: str = 'label'


def kind_of(path: str) -> str | None:
    """Returns what a path is, one of `KINDS`; None for other files."""
    name = os.path.basename(path)
    if os.path.isdir(path):
        return 'folder' if looks_like_images(path) else None
    for kind in ('array_record', 'tfrecord'):
        if kind in name:
            return kind
    for kind in ('npz', 'parquet'):
        if name.endswith(f'.{kind}'):
            return kind
    return None


def find_origin(
    pattern: str, kind: str | None, columns: Columns, size: int
) -> Origin:
    """Finds the images that a path, a glob or a folder names.

    Args:
      pattern: what is given.
      kind: one of `KINDS`; None finds out.
      columns: names of image and label.
      size: bytes of a part of a folder or an array, about.

    Raises:
      ConfigError: if there are none, or several kinds.
    """
    kind = kind or kind_of(pattern)
    if kind == 'folder':
        return _of_folder(pattern, size)
    if os.path.isdir(pattern):
        every = [
            os.path.join(folder, name)
            for folder, _, names in os.walk(pattern)
            for name in names
            if name[0] != '.'
        ]
    else:
        every = matching(pattern, FIELD)
    kinds = {path: kind_of(path) for path in every}
    known = sorted({k for k in kinds.values() if k})
    if kind is None:
        if len(known) != 1:
            what = ' and '.join(known) or 'none that is known by its name'
            allowed = (
                f'files of one kind, of {", ".join(KINDS)} (they are {what})'
            )
            raise ConfigError(FIELD, pattern, allowed)
        kind = known[0]
    paths = [p for p in every if kinds[p] == kind]
    paths = sorted(paths or every, key=by_number)
    if kind == 'npz':
        if len(paths) > 1:
            allowed = f'one .npz (there are {len(paths)})'
            raise ConfigError(FIELD, pattern, allowed)
        return _of_arrays(paths[0], size)
    return _of_files(pattern, kind, paths, columns)


def read_part(part: Part, columns: Columns) -> Iterator[Found]:
    """Yields the images of a part.

    Args:
      part: one of an `Origin`.
      columns: names of image and label.

    Raises:
      ConfigError: for what cannot be read.
    """
    try:
        yield from _READERS[part.kind](part, columns)
    except UNREADABLE as error:
        raise refused(part.path, f'cannot be read: {error}') from None


def refused(name: str, what: str) -> ConfigError:
    """Returns the error about a file or an image."""
    return ConfigError(FIELD, name, f'of images ({name} {what})')


def _of_folder(root: str, size: int) -> Origin:
    found = list_images(root, FIELD)
    splits = [(None if found.val is None else 'train', found.train)]
    if found.val is not None:
        splits.append(('val', found.val))
    parts = []
    for split, images in splits:
        items: list[tuple[str, int]] = []
        total = 0
        labels = images.labels.tolist()
        for i, name in enumerate(images.names.tolist()):
            items.append((name, labels[i]))
            total += os.path.getsize(images.name(i))
            if total >= size or i + 1 == len(images):
                each = tuple(items)
                parts.append(Part('folder', root, split, total, items=each))
                items, total = [], 0
    return Origin(tuple(parts), found.classes)


def _of_arrays(path: str, size: int) -> Origin:
    arrays = read_arrays(path, FIELD)
    pairs = {'': 'train', '_val': 'val'}
    if 'x_val' not in arrays:
        pairs = {'': None}  # type: ignore[dict-item]
    parts = []
    for suffix, split in pairs.items():
        x = arrays[f'x{suffix}']
        channels = x.shape[3] if x.ndim == 4 else 1
        if x.dtype != np.uint8 or channels not in (1, 3):
            what = (
                f'has x{suffix} of {x.dtype} and {channels} channels; PNG '
                'holds uint8 and 1 or 3'
            )
            raise refused(path, what)
        many = max(size // (x[0].nbytes if len(x) else 1), 1)
        parts += [
            Part('npz', path, split, x[i : i + many].nbytes, i, i + many)
            for i in range(0, len(x), many)
        ]
    return Origin(tuple(parts), None)


def _of_files(
    pattern: str, kind: str, paths: Sequence[str], columns: Columns
) -> Origin:
    words = {path: split_word(path) or TRAIN[0] for path in paths}
    split = split_named(list(words.values()))
    names = dict.fromkeys(words.values())
    if split is None:
        if len(names) > 1 or next(iter(names)) in VAL:
            allowed = 'of files to train on, with train in their names'
            raise ConfigError(FIELD, pattern, allowed)
        taken: dict[str, str | None] = dict.fromkeys(names)
    else:
        taken = {split[0]: 'train', split[1]: 'val'}
    parts = []
    for word, part in taken.items():
        for path in (p for p in paths if words[p] == word):
            if kind != 'parquet':
                size = os.path.getsize(path)
                parts.append(Part(kind, path, part, size))
                continue
            groups = parquet_file(path).metadata
            for i in range(groups.num_row_groups):
                size = groups.row_group(i).total_byte_size
                parts.append(Part(kind, path, part, size, i, i + 1))
    classes = (
        _names_of_schema(paths[0], columns.label)
        if kind == 'parquet'
        else classes_of(os.path.dirname(paths[0]), columns.label)
    )
    left_out = tuple(name for name in names if name not in taken)
    return Origin(tuple(parts), classes, left_out)


def _names_of_schema(path: str, label: str) -> tuple[str, ...] | None:
    """Returns the names of the classes that Hugging Face's datasets wrote."""
    metadata = parquet_file(path).schema_arrow.metadata or {}
    try:
        found = json.loads(metadata[b'huggingface'])
        names = found['info']['features'][label]['names']
    except (KeyError, TypeError, ValueError):
        return None
    if isinstance(names, dict):  # by number
        names = [names[str(i)] for i in range(len(names))]
    return tuple(map(str, names))


def _read_folder(part: Part, columns: Columns) -> Iterator[Found]:
    for name, label in part.items:
        path = os.path.join(part.path, name)
        with open(path, 'rb') as file:
            yield file.read(), label, path


def _read_arrays(part: Part, columns: Columns) -> Iterator[Found]:
    arrays = read_arrays(part.path, FIELD)
    suffix = '_val' if part.split == 'val' else ''
    x, y = arrays[f'x{suffix}'], arrays[f'y{suffix}']
    for i in range(part.first, min(part.last, len(x))):
        yield encoded_png(x[i]), int(y[i]), f'{part.path}, x{suffix}[{i}]'


def _read_parquet(part: Part, columns: Columns) -> Iterator[Found]:
    file = parquet_file(part.path)
    for column in (columns.image, columns.label):
        if column not in file.schema_arrow.names:
            known = ', '.join(file.schema_arrow.names)
            raise refused(part.path, f'has no column {column!r} but {known}')
    groups = list(range(part.first, part.last))
    names = [columns.image, columns.label]
    row = 0
    for batch in file.iter_batches(_AT_ONCE, groups, columns=names):
        for found in batch.to_pylist():
            name = f'{part.path}, group {part.first}, row {row}'
            image, label = found[columns.image], found[columns.label]
            if isinstance(image, dict):
                image = image.get('bytes')
            yield _checked(image, label, name)
            row += 1


def _read_tfrecord(part: Part, columns: Columns) -> Iterator[Found]:
    with opened(part.path) as stream:
        for i in range(2**62):
            name = f'{part.path}, record {i}'
            head = stream.read(_LENGTH.size)
            if not head:
                return
            if len(head) < _LENGTH.size:
                raise refused(name, 'is cut off')
            length, _ = _LENGTH.unpack(head)
            if length > 2**31:
                raise refused(name, 'is damaged, or no TFRecord')
            record = stream.read(length)
            if len(stream.read(_CHECKSUM)) < _CHECKSUM:
                raise refused(name, 'is cut off')
            yield _of_example(record, columns, name)


def _read_array_record(part: Part, columns: Columns) -> Iterator[Found]:
    try:
        records = grain.sources.ArrayRecordDataSource([part.path])
        for i in range(len(records)):
            name = f'{part.path}, record {i}'
            yield _of_example(records[i], columns, name)
    except (RuntimeError, IndexError) as error:
        raise refused(part.path, f'cannot be read: {error}') from None


def _of_example(record: bytes, columns: Columns, name: str) -> Found:
    try:
        found = read_example(record)
    except ValueError as error:
        raise refused(name, str(error)) from None
    for column in (columns.image, columns.label):
        if len(found.get(column, ())) != 1:
            known = ', '.join(found) or 'nothing'
            raise refused(name, f'has not one {column!r}; it has {known}')
    return _checked(found[columns.image][0], found[columns.label][0], name)


def _checked(image: Any, label: Any, name: str) -> Found:
    if not isinstance(image, bytes):
        raise refused(name, 'has no bytes of an image')
    if not isinstance(label, int):
        raise refused(name, f'has no label that is an integer: {label!r}')
    return image, label, name


_READERS: dict[str, Callable[[Part, Columns], Iterator[Found]]] = {
    'folder': _read_folder,
    'npz': _read_arrays,
    'parquet': _read_parquet,
    'tfrecord': _read_tfrecord,
    'array_record': _read_array_record,
}
