"""Labelled images in memory, as batches.

N images, H rows, W columns and C channels of pixels, B images a batch over all
hosts.
"""

import dataclasses
import hashlib
import pathlib
import zipfile
import zlib
from collections.abc import Iterator
from typing import Annotated, Any

import grain
import numpy as np

from moe.config import (
    ConfigError,
    NaturalInt,
    PositiveInt,
    Within,
)

Batch = dict[str, np.ndarray]

_UNREADABLE = (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error)


@dataclasses.dataclass(frozen=True)
class ImageConfig:
    """A set of images, as a config describes it.

    Attributes:
      files: path of an .npz with pixels `x` [N, H, W] or [N, H, W, C], uint8
        or float, and integer labels `y` [N] from 0; also `x_val` and `y_val`,
        or a share of `x` is kept for validation. '' for the handwritten digits
        of scikit-learn, 8 x 8.
      batch_size: B.
      val_fraction: share of the images kept for validation.
      shift: training images are moved by up to so many pixels each way.
    """

    files: str
    batch_size: PositiveInt
    val_fraction: Annotated[float, Within(0.0, 0.5)]
    shift: NaturalInt


@dataclasses.dataclass(frozen=True)
class Images:
    """Training and validation images that share none.

    Attributes:
      train_x: float32 [N, H, W, C], of mean 0 and standard deviation 1.
      train_y: int32 labels [N].
      val_x: standardised by the same numbers as `train_x`.
      val_y: likewise labels.
      num_classes: the greatest label and 1.
      fingerprint: a hash of all of it; runs on different images differ here.
      black: what the standardisation makes of a pixel 0.
    """

    train_x: np.ndarray
    train_y: np.ndarray
    val_x: np.ndarray
    val_y: np.ndarray
    num_classes: int
    fingerprint: str
    black: float = 0.0


def load_images(config: ImageConfig) -> Images:
    """Reads the images, splits them, and standardises the pixels.

    The split is one fixed permutation, whatever the seed of a run. Mean and
    standard deviation are numbers of the training images alone, over all of
    their pixels and channels.

    Args:
      config: of the images.

    Returns:
      The images.

    Raises:
      ConfigError: if the file is not as `ImageConfig` describes it, or has too
        few images.
    """

    def refuse(allowed):
        return ConfigError('config.data.files', config.files, allowed)

    arrays = _read(config.files, refuse) if config.files else _digits(refuse)
    for suffix in ('', '_val') if 'x_val' in arrays else ('',):
        _check(arrays, suffix, refuse)
    x, y = _pixels(arrays['x']), arrays['y']
    if 'x_val' in arrays:
        train_x, train_y = x, y
        val_x, val_y = _pixels(arrays['x_val']), arrays['y_val']
        kept = 'images in x_val and y_val (there are 0)'
    else:
        order = np.random.default_rng(0).permutation(len(x))
        val, train = np.split(order, [round(config.val_fraction * len(x))])
        train_x, train_y, val_x, val_y = x[train], y[train], x[val], y[val]
        kept = (
            f'images of which val_fraction = {config.val_fraction} is at '
            f'least one (there are {len(x)})'
        )
    if not len(val_x):
        raise refuse(kept)
    if len(train_x) < config.batch_size:
        raise refuse(
            f'images with at least batch_size = {config.batch_size} to train '
            f'on (there are {len(train_x)})'
        )
    for pixels in (train_x, val_x):
        if not np.all(np.isfinite(pixels)):
            raise refuse('images whose pixels are all finite')
    if np.min(train_x) == np.max(train_x):
        raise refuse('images whose pixels are not all the same')
    train_y, val_y = train_y.astype(np.int32), val_y.astype(np.int32)
    # Of the pixels as read: sums are not the same on every machine.
    digest = hashlib.sha256()
    for array in (train_x, train_y, val_x, val_y):
        digest.update(str(array.shape).encode())
        digest.update(array.tobytes())
    mean = np.mean(train_x, dtype=np.float64)
    deviation = np.std(train_x, dtype=np.float64)
    standard = lambda x: ((x - mean) / deviation).astype(np.float32)
    return Images(
        train_x=standard(train_x),
        train_y=train_y,
        val_x=standard(val_x),
        val_y=val_y,
        num_classes=1 + int(max(np.max(train_y), np.max(val_y))),
        fingerprint=digest.hexdigest()[:16],
        black=float(-mean / deviation),
    )


def train_batches(
    images: Images,
    config: ImageConfig,
    seed: int,
    host: int = 0,
    num_hosts: int = 1,
) -> grain.DatasetIterator:
    """Endless shuffled batches of this host's share of every global batch.

    Batch t is the same set of images on any number of hosts, and the iterator's
    state, `{"next_index": t}`, is the same on all of them. Each image is moved
    by its own draw of up to `shift` pixels down or up and right or left, other
    ones every epoch; what enters at the border is black.

    Args:
      images: to train on.
      config: sizes and the shift.
      seed: of the order and the shifts.
      host: index of this host.
      num_hosts: number of hosts.

    Returns:
      An iterator over dictionaries of 'image', float32 [B / num_hosts, H, W,
      C], and 'label', int32 [B / num_hosts].
    """
    height, width = images.train_x.shape[1:3]

    def crop(index, example):
        # Of the place in the endless stream: no two epochs are alike.
        draw = np.random.default_rng((seed, index))
        top, left = draw.integers(0, 2 * config.shift, 2, endpoint=True)
        window = example['image'][top : top + height, left : left + width]
        return {**example, 'image': window}

    examples = (
        grain.MapDataset.source(_Bordered(images, config.shift))
        .seed(seed)
        .shuffle()
        .repeat(None)
        .map_with_index(crop)
    )
    mine = examples[host::num_hosts].batch(config.batch_size // num_hosts)
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    return iter(mine.to_iter_dataset(options))


def val_batches(
    images: Images, config: ImageConfig, host: int = 0, num_hosts: int = 1
) -> Iterator[Batch]:
    """All validation images once, the last batch padded.

    Args:
      images: to validate on.
      config: sizes.
      host: index of this host.
      num_hosts: number of hosts.

    Yields:
      This host's rows: 'image', float32 [B / num_hosts, H, W, C], 'label',
      int32 [B / num_hosts], and 'mask', bool [B / num_hosts], of the rows that
      are images and not padding.
    """
    size = config.batch_size
    for first in range(0, len(images.val_x), size):
        x = images.val_x[first : first + size]
        y = images.val_y[first : first + size]
        batch = {
            'image': np.zeros((size, *x.shape[1:]), np.float32),
            'label': np.zeros(size, np.int32),
            'mask': np.arange(size) < len(x),
        }
        batch['image'][: len(x)], batch['label'][: len(x)] = x, y
        yield {name: rows[host::num_hosts] for name, rows in batch.items()}


class _Bordered:
    """Training images with a black border, and their labels."""

    def __init__(self, images: Images, border: int):
        self._images, self._border = images, border

    def __len__(self) -> int:
        return len(self._images.train_x)

    def __getitem__(self, index) -> dict[str, Any]:
        image, n = self._images.train_x[index], self._border
        if n:
            black = self._images.black
            sides = ((n, n), (n, n), (0, 0))
            image = np.pad(image, sides, constant_values=black)
        return {'image': image, 'label': self._images.train_y[index]}


def _digits(refuse) -> Batch:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        allowed = 'the path of an .npz file, as scikit-learn is not installed'
        raise refuse(allowed) from None
    digits = load_digits()
    return {'x': digits.images / 16, 'y': digits.target}  # pixels 0 .. 16


def _read(files: str, refuse) -> Batch:
    """The arrays of the file that have the names we know."""
    path = pathlib.Path(files)
    if not path.is_file():
        raise refuse('the path of an .npz file (there is no such file)')
    if not zipfile.is_zipfile(path):
        raise refuse('an .npz file (it is no archive of arrays)')
    try:
        with np.load(path, allow_pickle=False) as found:
            names = {'x', 'y', 'x_val', 'y_val'} & set(found)
            arrays = {name: np.asarray(found[name]) for name in names}
    except _UNREADABLE as error:
        raise refuse(f'an .npz file that can be read ({error})') from None
    wanted = {'x', 'y'}
    if {'x_val', 'y_val'} & names:
        wanted |= {'x_val', 'y_val'}
    if missing := sorted(wanted - names):
        raise refuse(f'an .npz file that has also {", ".join(missing)}')
    return arrays


def _check(arrays: Batch, suffix: str, refuse) -> None:
    """Checks one pair of pixels and labels."""
    x, y = arrays[f'x{suffix}'], arrays[f'y{suffix}']
    name = f'an .npz file with x{suffix} and y{suffix}'
    if x.ndim not in (3, 4) or y.ndim != 1 or 0 in x.shape[1:]:
        raise refuse(
            f'{name} of shapes [N, H, W] or [N, H, W, C] and [N] (they are '
            f'{list(x.shape)} and {list(y.shape)})'
        )
    if len(x) != len(y):
        raise refuse(
            f'{name} of the same length (they are {len(x)} and {len(y)})'
        )
    if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
        raise refuse(f'{name}, pixels of uint8 or float (they are {x.dtype})')
    if not np.issubdtype(y.dtype, np.integer):
        raise refuse(f'{name}, labels of integers (they are {y.dtype})')
    if len(y) and not 0 <= np.min(y) <= np.max(y) < 2**31:
        raise refuse(
            f'{name}, labels of 0 and up (they are {np.min(y)} to {np.max(y)})'
        )
    like = arrays['x']
    if (x.shape[1:], x.dtype) != (like.shape[1:], like.dtype):
        raise refuse(
            f'{name}, pixels of the shape and type of x (they are '
            f'{x.dtype} {list(x.shape)} and {like.dtype} {list(like.shape)})'
        )


def _pixels(x: np.ndarray) -> np.ndarray:
    """Float32 pixels [N, H, W, C]; whole bytes become shares of 255."""
    if x.ndim == 3:
        x = x[..., None]
    scale = 255 if x.dtype == np.uint8 else 1
    with np.errstate(over='ignore'):  # infinite pixels are refused later
        return x.astype(np.float32) / np.float32(scale)
