"""Labelled images in memory, and batches of them.

N images, H rows, W columns and C channels of pixels, B images a batch over all
hosts.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from typing import Annotated

import grain
import numpy as np

from moe.config import (
    ConfigError,
    NaturalInt,
    OneOf,
    PositiveInt,
    options,
)
from moe.workloads.batches import host_batches
from moe.workloads.vision.augment import Augment, augmented, cropped, shifted
from moe.workloads.vision.mixing import mixed, shares
from moe.workloads.vision.sources import SOURCES, LabelledImages, digits

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class ImageConfig:
    """The config of labelled images.

    Attributes:
      source: source of the images.
      batch_size: B, number of images of a step, over all hosts.
      shift: largest number of pixels by which training images are shifted.
      augment: what else is done to training images.
    """

    source: Annotated[Callable[[], LabelledImages], OneOf(SOURCES)] = digits
    batch_size: PositiveInt = 64
    shift: NaturalInt = 1
    augment: Augment = Augment()

    def __post_init__(self):
        if self.augment.mixes and self.batch_size % 2:
            allowed = 'even, as images are mixed in pairs'
            raise ConfigError('batch_size', self.batch_size, allowed)


@dataclasses.dataclass(frozen=True)
class Images:
    """Disjoint training and validation images.

    Attributes:
      train_x: float32 [N, H, W, C], of mean 0 and standard deviation 1.
      train_y: int32 labels [N].
      val_x: standardised by the same numbers as `train_x`.
      val_y: int32 labels of `val_x`.
      num_classes: the greatest label and 1.
      fingerprint: a hash of all images and labels, which identifies them.
      black: the standardised value of a pixel 0.
    """

    train_x: np.ndarray
    train_y: np.ndarray
    val_x: np.ndarray
    val_y: np.ndarray
    num_classes: int
    fingerprint: str
    black: float = 0.0


def load_images(config: ImageConfig) -> Images:
    """Reads the images, checks them, and standardises the pixels.

    Mean and standard deviation are scalars, over all pixels and channels of the
    training images.

    Args:
      config: description of the images.

    Returns:
      The images.

    Raises:
      ConfigError: if the source's images cannot be used, or are too few.
    """
    name = SOURCES.name_of(config.source)
    section = {'name': name, **options(config.source)}

    def refuse(allowed):
        return ConfigError('config.data.source', section, allowed)

    found = config.source()
    train_x, train_y = found.train
    val_x, val_y = found.val
    if not len(val_x):
        raise refuse('a source with at least one image to validate on')
    if len(train_x) < config.batch_size:
        raise refuse(
            f'a source with at least batch_size = {config.batch_size} images '
            f'to train on (there are {len(train_x)})'
        )
    for pixels in (train_x, val_x):
        if not np.all(np.isfinite(pixels)):
            raise refuse('a source of images whose pixels are all finite')
    if np.min(train_x) == np.max(train_x):
        raise refuse('a source of images whose pixels are not all the same')
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
    """Returns endless shuffled batches, this host's rows of each global one.

    Batch t is the same set of images on any number of hosts, and the iterator's
    state, `{"next_index": t}`, is the same on all of them. Each image is
    augmented at random, differently in every epoch, and then shifted by up to
    `shift` pixels vertically and horizontally; the new border is black.

    Args:
      images: the images.
      config: config of the data.
      seed: seed of the order and of the augmentation.
      host: index of this host.
      num_hosts: number of hosts.

    Returns:
      An iterator over dictionaries of 'image', float32 [B / num_hosts, H, W,
      C], and 'label', int32 [B / num_hosts]; of mixed images those of `mixed`
      too.

    Raises:
      ConfigError: for an odd number of images a host, which are to be mixed.
    """
    augment, finish = config.augment, mixed if config.augment.mixes else None
    if finish and config.batch_size // num_hosts % 2:
        allowed = f'an even number for each of {num_hosts} hosts, to be mixed'
        raise ConfigError('config.data.batch_size', config.batch_size, allowed)

    def example(index, row):
        # By the index in the endless stream, so that epochs differ.
        draw = np.random.default_rng((seed, index))
        image = images.train_x[row]
        if augment.crop < 1:
            image = cropped(image, draw, augment.crop)
        image = augmented(image, draw, augment, images.black)
        if config.shift:
            image = shifted(image, draw, config.shift, images.black)
        made = {'image': image, 'label': images.train_y[row]}
        if finish:
            made['share'] = shares(draw, augment, *image.shape[:2])
        return made

    examples = (
        grain.MapDataset.range(len(images.train_x))
        .seed(seed)
        .shuffle()
        .repeat(None)
        .map_with_index(example)
    )
    return host_batches(examples, config.batch_size, host, num_hosts, finish)


def val_batches(
    images: Images, config: ImageConfig, host: int = 0, num_hosts: int = 1
) -> Iterator[Batch]:
    """Yields all validation images once, the last batch padded.

    Args:
      images: the images.
      config: config of the data.
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
