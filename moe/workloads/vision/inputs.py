"""Images to predict: files, folders and arrays, prepared as in training.

N images, H rows, W columns and C channels of pixels, B images a batch.
"""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from moe import files
from moe.config import ConfigError
from moe.paths import read_json, reading
from moe.workloads.data_files import matching
from moe.workloads.vision.data.encoded import (
    Encoded,
    Streamed,
    Unreadable,
    unreadable,
)
from moe.workloads.vision.data.folder import ENDINGS
from moe.workloads.vision.data.images import Images
from moe.workloads.vision.data.sources import pixels, read_npz
from moe.workloads.vision.data.standard import Standard

FILE = 'preprocessing.json'
_THREADS = 8  # that read and decode


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What was done to the images of a run, and what its classes are.

    Attributes:
      standard: what pixels are standardised by.
      center: share of the shorter side that the central square has, which
        evaluation sees of an encoded image.
      classes: names of the classes in the order of the labels; () if they have
        numbers alone.
    """

    standard: Standard
    center: float = 1.0
    classes: tuple[str, ...] = ()

    @classmethod
    def of(cls, data: Images) -> 'Preparation':
        """Returns that of a run's data."""
        center = getattr(data.val_x, 'center', 1.0)
        return cls(data.standard, center, data.classes)

    def names(self, count: int) -> list[str]:
        """Returns what the model's classes are called, each another name.

        Args:
          count: number of the model's classes, which may be more than there
            were in training.
        """
        names = list(self.classes[:count])
        for c in range(len(names), count):
            names.append(f'class {c}' if str(c) in self.classes else str(c))
        return names

    def write(self, workdir: pathlib.Path) -> None:
        """Writes `preprocessing.json` into the run's folder.

        Args:
          workdir: the run's folder.
        """
        plain = {
            'mean': self.standard.mean.tolist(),
            'deviation': self.standard.deviation.tolist(),
            'center': self.center,
            'classes': list(self.classes),
        }
        text = json.dumps(plain, indent=2) + '\n'
        files.write_text(workdir / FILE, text)

    @classmethod
    def read(cls, workdir: pathlib.Path) -> 'Preparation':
        """Reads the file of `write`.

        Args:
          workdir: the run's folder.

        Raises:
          ConfigError: for a file that cannot be used.
        """
        path = workdir / FILE
        found = read_json(path)
        with reading(path):
            mean, deviation = (
                np.array(found[name], np.float64).reshape(-1)
                for name in ('mean', 'deviation')
            )
            if mean.shape != deviation.shape or not np.all(deviation > 0):
                raise ValueError('no mean and deviation of pixels')
            classes = tuple(str(name) for name in found['classes'])
            standard = Standard(mean, deviation)
            return cls(standard, float(found['center']), classes)


class LeftOut:
    """Images that cannot be used: the first is an error, or all are skipped.

    Args:
      skip: whether they are skipped.

    Attributes:
      count: how many were skipped.
      told: a line about each of the first hundred.
    """

    def __init__(self, skip: bool):
        self._skip, self.count = skip, 0
        self.told: list[str] = []

    def leave_out(self, path: str, allowed: str) -> None:
        """Skips an image.

        Args:
          path: path of its file.
          allowed: what would have been accepted, and what there is.

        Raises:
          ConfigError: unless such images are skipped.
        """
        error = ConfigError('image', path, allowed)
        if not self._skip:
            raise error
        self.count += 1
        if len(self.told) < 100:
            self.told.append(str(error))

    def lines(self) -> list[str]:
        """Returns what is told at the end, a line an image."""
        if not self.count:
            return []
        more = self.count - len(self.told)
        rest = [f'and {more} more'] if more else []
        return [*self.told, *rest, f'{self.count} images left out']


class Rows(NamedTuple):
    """Images of a batch that could be read.

    Attributes:
      row: numbers of the images from 1 over all inputs, those that are left
        out included.
      file: path of each image's file.
      images: [N, H, W, C] float32, standardised.
    """

    row: list[int]
    file: list[str]
    images: Float[np.ndarray, 'N H W C']


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Images to predict, in the order of their files' names.

    Attributes:
      paths: the files, of any format that Pillow reads, or .npz with `x`.
      shape: (H, W, C) of the model.
      preparation: that of the run.
    """

    paths: list[str]
    shape: tuple[int, int, int]
    preparation: Preparation

    def batches(self, size: int, left_out: LeftOut) -> Iterator[Rows]:
        """Yields images, read and decoded in threads.

        Args:
          size: B, the most images of a batch.
          left_out: to which those are added that cannot be used.

        Raises:
          ConfigError: for an image that cannot be used, unless such are
            skipped; for an archive that cannot be read, or has images of
            another shape.
        """
        number = 0
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            for paths, arrays in self._parts(size):
                if arrays is None:
                    found = list(pool.map(self._decoded, paths))
                else:
                    found = list(map(self._standardised, arrays))
                kept = []
                for i, (path, image) in enumerate(
                    zip(paths, found, strict=True)
                ):
                    if isinstance(image, str):
                        left_out.leave_out(path, image)
                    else:
                        kept.append(i)
                rows = [number + 1 + i for i in kept]
                number += len(paths)
                if kept:
                    images = np.stack([found[i] for i in kept])
                    yield Rows(rows, [paths[i] for i in kept], images)

    def _parts(self, size: int) -> Iterator[tuple[list[str], Any]]:
        """Yields paths of encoded images, or of an archive with its pixels."""
        paths: list[str] = []
        for path in self.paths:
            if path.lower().endswith('.npz'):
                if paths:
                    yield paths, None
                    paths = []
                arrays = self._archive(path)
                for first in range(0, len(arrays), size):
                    part = arrays[first : first + size]
                    yield [path] * len(part), part
                continue
            paths.append(path)
            if len(paths) == size:
                yield paths, None
                paths = []
        if paths:
            yield paths, None

    def _archive(self, path: str) -> np.ndarray:
        """Reads the pixels of an .npz, not yet standardised."""

        def refuse(allowed):
            return ConfigError('--input', path, allowed)

        arrays = read_npz(path, '--input', ('x',))
        if 'x' not in arrays:
            raise refuse('an .npz file that has also x')
        x = arrays['x']
        known = x.dtype == np.uint8 or np.issubdtype(x.dtype, np.floating)
        made = pixels(x) if x.ndim in (3, 4) and known else x
        if not known or made.shape[1:] != self.shape:
            sizes = ', '.join(map(str, ('N', *self.shape)))
            raise refuse(
                f'an .npz file with pixels x [{sizes}] of uint8 or float (they '
                f'are {x.dtype} {list(x.shape)})'
            )
        return made

    def _standardised(self, image: np.ndarray) -> np.ndarray | str:
        if not np.all(np.isfinite(image)):
            return 'one whose pixels are all finite'
        return self.preparation.standard.apply(image)

    def _decoded(self, path: str) -> np.ndarray | str:
        """Returns an image, or what would have been accepted."""
        height, _, channels = self.shape
        streamed = Streamed(
            _File(path),
            height,
            channels,
            self.preparation.center,
            self.preparation.standard,
        )
        try:
            return streamed[0]
        except Unreadable as error:
            return f'an image (it {error.what})'


@dataclasses.dataclass(frozen=True)
class _File(Encoded):
    """One file, as a list of encoded images."""

    path: str

    def __len__(self):
        return 1

    def name(self, index):
        return self.path

    def read(self, index):
        try:
            return pathlib.Path(self.path).read_bytes(), 0
        except OSError as error:
            what = f'cannot be read: {error.strerror}'
            raise unreadable(self.path, self.path, what) from None


def list_inputs(pattern: str, field: str) -> list[str]:
    """Returns the images that a path names, sorted.

    Args:
      pattern: a file, a glob, or a folder, which has images at any depth.
      field: the flag that holds it, for messages.

    Raises:
      ConfigError: if there is none.
    """
    if not os.path.isdir(pattern):
        return matching(pattern, field)
    found = [
        os.path.join(folder, name)
        for folder, _, names in os.walk(pattern)
        for name in names
        if name.lower().endswith((*ENDINGS, '.npz'))
    ]
    if not found:
        raise ConfigError(field, pattern, 'a folder with images (it has none)')
    return sorted(found)
