"""The data source of folders of images, a folder a class.

N images.
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np

from moe.config import ConfigError, Within
from moe.workloads.vision.data.encoded import (
    FILES,
    Encoded,
    StreamedImages,
    StreamedSource,
    class_numbers,
    unreadable,
)
from moe.workloads.vision.data.sources import SOURCES, ValFraction
from moe.workloads.vision.data.splits import by_content, split_named

# Endings of the names of images.
ENDINGS = (
    *('.png', '.jpg', '.jpeg', '.jpe', '.webp', '.gif', '.bmp', '.tif'),
    *('.tiff', '.ppm', '.pgm', '.pnm'),
)
Center = Annotated[float, Within(0.05, 1.0)]
_LEFT_OUT = ('thumbs.db', 'desktop.ini')  # which systems put there themselves


@dataclasses.dataclass(frozen=True)
class Files(Encoded):
    """Encoded images, a file each.

    Attributes:
      root: folder of all.
      names: [N] paths of the files below it.
      labels: int32 [N].
    """

    root: str
    names: np.ndarray
    labels: np.ndarray

    def __len__(self):
        return len(self.names)

    def read(self, index):
        """Reads a file."""
        path = self.name(index)
        try:
            with open(path, 'rb') as file:
                return file.read(), int(self.labels[index])
        except OSError as error:
            what = f'cannot be read: {error.strerror}'
            raise unreadable(self.root, path, what) from None

    def label(self, index):
        """Returns the label without reading the file."""
        return int(self.labels[index])

    def name(self, index):
        """Returns the path."""
        return os.path.join(self.root, str(self.names[index]))

    def only(self, rows: np.ndarray) -> 'Files':
        """Returns some of the images.

        Args:
          rows: their numbers, or whether each is among them.
        """
        return Files(self.root, self.names[rows], self.labels[rows])


@SOURCES.register('folder')
@dataclasses.dataclass(frozen=True)
class Folder(StreamedSource):
    """A folder for each class, with images of any size and format.

    The classes are the sorted names of the folders. If there are folders
    `train` and `val` (or `validation`, `valid`, `test`), the classes' folders
    are in them. Images are read and decoded when they are needed.

    Attributes:
      files: path of the folder.
      val_fraction: share of the images that validate, without a folder for
        them; each by a hash of its bytes, so that copies are in one part.
      center: share of the shorter side of an image that the central square
        has, which validation sees, and training without random crops.
    """

    files: str
    val_fraction: ValFraction = 0.25
    center: Center = 1.0

    def open(self):
        """Lists the files."""
        found = list_images(self.files, FILES)
        if found.val is not None:
            digest = hashlib.sha256()
            for part in (found.train, found.val):
                digest.update(_identity(part))
            train, val, content = found.train, found.val, digest.hexdigest()
        else:
            every = found.train
            paths = [every.name(i) for i in range(len(every))]
            validates, content = by_content(
                paths,
                len(every),
                lambda i: every.read(i)[0],
                self.val_fraction,
            )
            train, val = every.only(~validates), every.only(validates)
            digest = hashlib.sha256(content.encode() + every.labels.tobytes())
            content = f'{self.val_fraction} {digest.hexdigest()}'
        return StreamedImages(
            train,
            val,
            len(found.classes),
            self.center,
            content,
            found.classes,
        )


@dataclasses.dataclass(frozen=True)
class Listed:
    """The images of a folder.

    Attributes:
      classes: names, sorted.
      train: those to train on; all, if no others are named.
      val: those to validate on, None if no folder has them.
    """

    classes: tuple[str, ...]
    train: Files
    val: Files | None


def list_images(root: str, field: str) -> Listed:
    """Finds the images of a folder by its folders' names.

    Args:
      root: the folder.
      field: the field that names it, for messages.

    Raises:
      ConfigError: for anything that is no such folder.
    """

    def refuse(what):
        allowed = (
            f'a folder that has a folder of images for each class ({what})'
        )
        return ConfigError(field, root, allowed)

    if not os.path.isdir(root):
        there = os.path.exists(root)
        raise refuse('it is a file' if there else 'there is no such folder')
    split = split_named(_folders(root))
    if split is None:
        files = _files_of(root, '', refuse)
        return Listed(tuple(files), _together(root, files, list(files)), None)
    train, val = (_files_of(root, part, refuse) for part in split)
    if strange := sorted(set(val) - set(train)):
        raise refuse(f'{split[1]}/{strange[0]} is a class without training')
    classes = sorted(train)
    return Listed(
        tuple(classes),
        _together(root, train, classes),
        _together(root, val, classes),
    )


def looks_like_images(root: str) -> bool:
    """Whether a folder has folders of images, by the first names of each."""
    if not os.path.isdir(root):
        return False
    folders = _folders(root)
    split = split_named(folders)
    if split is not None:
        root = os.path.join(root, split[0])
        folders = _folders(root)
    for folder in folders[:1]:
        for name, _ in _walked(os.path.join(root, folder)):
            return name.lower().endswith(ENDINGS)
    return False


def _folders(root: str) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(
            e.name for e in entries if e.is_dir() and e.name[0] not in '._'
        )


def _walked(root: str) -> Iterator[tuple[str, str]]:
    """Yields name and path below the root of each file that is not hidden."""
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if name[0] != '.')
        for name in sorted(names):
            if name[0] != '.' and name.lower() not in _LEFT_OUT:
                yield name, os.path.join(folder, name)


def _files_of(root: str, part: str, refuse) -> dict[str, list[str]]:
    """Returns the files of each class, paths below the root."""
    top = os.path.join(root, part) if part else root
    found = {}
    for folder in _folders(top):
        paths = []
        for name, path in _walked(os.path.join(top, folder)):
            if not name.lower().endswith(ENDINGS):
                raise refuse(f'{path} is no image by its name')
            paths.append(os.path.relpath(path, root))
        if not paths:
            raise refuse(f'{os.path.join(part, folder)} has no images')
        found[folder] = paths
    if not found:
        inside = [name for name in os.listdir(top) if name[0] != '.']
        images = [n for n in inside if n.lower().endswith(ENDINGS)]
        what = f'{images[0]} is in none' if images else 'there are none'
        others = [n for n in inside if 'tfrecord' in n or 'parquet' in n]
        if others:
            what += '; python -m moe.convert_images makes shards of the files'
        raise refuse(what)
    return found


def _together(
    root: str, files: dict[str, list[str]], classes: Sequence[str]
) -> Files:
    numbers = class_numbers(classes)
    names = [name for c in sorted(files) for name in files[c]]
    labels = [numbers[c] for c in sorted(files) for _ in files[c]]
    return Files(root, np.array(names), np.array(labels, np.int32))


def _identity(files: Files) -> bytes:
    """Returns names, sizes and labels, which identify files without reading."""
    sizes = [os.path.getsize(files.name(i)) for i in range(len(files))]
    lines = zip(files.names.tolist(), sizes, files.labels.tolist(), strict=True)
    return '\n'.join(map(str, lines)).encode()
