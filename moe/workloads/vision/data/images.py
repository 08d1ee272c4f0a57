"""Labelled images, in memory or streamed, and batches of them.

N images, H rows, W columns and C channels of pixels, B images a batch over all
hosts.
"""

import concurrent.futures
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import grain
import numpy as np

from moe import progress
from moe.config import ConfigError, NaturalInt, OneOf, PositiveInt, options
from moe.workloads.batches import host_batches, iterated
from moe.workloads.vision.data import cluttered
from moe.workloads.vision.data.array_record import has_shards
from moe.workloads.vision.data.augment import (
    Augment,
    augmented,
    cropped,
    shifted,
)
from moe.workloads.vision.data.encoded import (
    Labels,
    Streamed,
    StreamedImages,
    StreamedSource,
)
from moe.workloads.vision.data.mixing import mixed, shares
from moe.workloads.vision.data.rand_augment import CHANNELS
from moe.workloads.vision.data.sources import SOURCES, LabelledImages, digits
from moe.workloads.vision.data.standard import (
    Standard,
    standard_of,
    standard_of_bytes,
)

Batch = dict[str, np.ndarray]
REGISTERED = (cluttered,)  # its source is chosen by its name

_SAMPLE = 1024  # images by which those that are streamed are standardised
_THREADS = 8  # that decode them


@SOURCES.recognises
def source_of(option: str, text: str) -> str | None:
    """Returns the source that a path means without a name.

    Args:
      option: name of the option.
      text: its value.

    Returns:
      None for another option, or a file that tells nothing; a path where
      nothing is means a folder, unless its end tells another source.
    """
    if option != 'files':
        return None
    if has_shards(text) or text.endswith('.array_record'):
        return 'array_record'
    if text.endswith('.npz') and not os.path.isdir(text):
        return 'npz'
    return None if os.path.isfile(text) else 'folder'


@dataclasses.dataclass(frozen=True)
class ImageConfig:
    """The config of labelled images.

    Attributes:
      source: source of the images.
      batch_size: B, number of images of a step, over all hosts.
      shift: largest number of pixels by which training images are shifted.
      augment: what else is done to training images.
      per_channel: whether pixels are standardised by numbers of each channel;
        else of all together.
      mean: what is subtracted from pixels, shares of white: a number for each
        channel, or one; measured if not given.
      deviation: what they are divided by then, given with `mean`.
      workers: processes of a host that read, decode and augment images to train
        on, and threads for those to validate on; 0: neither.
    """

    source: Annotated[
        Callable[[], LabelledImages] | StreamedSource, OneOf(SOURCES)
    ] = digits
    batch_size: PositiveInt = 64
    shift: NaturalInt = 1
    augment: Augment = Augment()
    per_channel: bool = False
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    workers: NaturalInt = 0

    def __post_init__(self):
        if self.augment.mixes and self.batch_size % 2:
            allowed = 'even, as images are mixed in pairs'
            raise ConfigError('batch_size', self.batch_size, allowed)
        if len(self.mean) != len(self.deviation):
            allowed = f'as many numbers as mean ({len(self.mean)})'
            raise ConfigError('deviation', self.deviation, allowed)
        if any(value <= 0 for value in self.deviation):
            raise ConfigError('deviation', self.deviation, 'all above 0')


@dataclasses.dataclass(frozen=True)
class Images:
    """Disjoint training and validation images.

    Attributes:
      train_x: float32 [N, H, W, C], standardised; an array, or `Streamed`.
      train_y: int32 labels [N]; an array, or `Labels`.
      val_x: standardised by the same numbers as `train_x`.
      val_y: labels of `val_x`.
      num_classes: the greatest label and 1, or the number that the source
        tells.
      fingerprint: a hash of all images and labels, or of what identifies them.
      standard: what the pixels are standardised by.
      classes: names of the classes in the order of the labels; () if they have
        numbers alone.
    """

    train_x: Any
    train_y: Any
    val_x: Any
    val_y: Any
    num_classes: int
    fingerprint: str
    standard: Standard = Standard(np.zeros(1), np.ones(1))
    classes: tuple[str, ...] = ()

    def example(
        self, index: int, draw: np.random.Generator, least: float
    ) -> tuple[np.ndarray, np.int32]:
        """Returns an image to train on, and its label.

        Those in memory are standardised; those that are decoded are 255ths.

        Args:
          index: its number.
          draw: draws a crop, if there is one.
          least: least share of the area of a crop; 1 takes none.
        """
        if isinstance(self.train_x, Streamed):
            crops = draw if least < 1 else None
            pixels, label = self.train_x.pixels(index, crops, least)
            return pixels, np.int32(label)
        image = self.train_x[index]
        if least < 1:
            image = cropped(image, draw, least)
        return image, self.train_y[index]


def load_images(
    config: ImageConfig, image_size: int = 8, channels: int = 1
) -> Images:
    """Finds the images, checks them, and standardises the pixels.

    Mean and standard deviation are those of all training images, scalars or by
    channel; of 1,024 of them, evenly spaced, where they are streamed.

    Args:
      config: description of the images.
      image_size: H and W of images that are streamed, which are resized.
      channels: C of images that are streamed.

    Returns:
      The images.

    Raises:
      ConfigError: if the source's images cannot be used, or are too few.
    """
    name = SOURCES.name_of(config.source)
    section = {'name': name, **options(config.source)}

    def refuse(allowed):
        return ConfigError('config.data.source', section, allowed)

    if isinstance(config.source, StreamedSource):
        found = config.source.open()
        _check_counts(config, len(found.train), len(found.val), refuse)
        return _streamed(config, found, image_size, channels, refuse)
    train, val = config.source()
    _check_counts(config, len(train[0]), len(val[0]), refuse)
    return _in_memory(config, LabelledImages(train, val), refuse)


def _check_counts(config: ImageConfig, train: int, val: int, refuse) -> None:
    if not val:
        raise refuse('a source with at least one image to validate on')
    if train < config.batch_size:
        raise refuse(
            f'a source with at least batch_size = {config.batch_size} images '
            f'to train on (there are {train})'
        )


def _given(config: ImageConfig, channels: int) -> Standard | None:
    """Returns the config's own numbers, None without."""
    if not config.mean:
        return None
    if len(config.mean) not in (1, channels):
        allowed = f"a number for each of the images' {channels} channels, or 1"
        raise ConfigError('config.data.mean', config.mean, allowed)
    return Standard(np.array(config.mean), np.array(config.deviation))


def _in_memory(config: ImageConfig, found: LabelledImages, refuse) -> Images:
    (train_x, train_y), (val_x, val_y) = found
    for pixels in (train_x, val_x):
        if not np.all(np.isfinite(pixels)):
            raise refuse('a source of images whose pixels are all finite')
    if np.min(train_x) == np.max(train_x):
        raise refuse('a source of images whose pixels are not all the same')
    if config.augment.rand_augment:
        if train_x.shape[-1] not in CHANNELS:
            raise refuse(
                f'a source of 1 or 3 channels, for rand_augment (there are '
                f'{train_x.shape[-1]})'
            )
        if np.min(train_x) < 0 or np.max(train_x) > 1:
            raise refuse(
                'a source of bytes, or of pixels from 0 to 1, for rand_augment'
            )
    train_y, val_y = train_y.astype(np.int32), val_y.astype(np.int32)
    # Of the pixels as read: sums are not the same on every machine.
    digest = hashlib.sha256()
    for array in (train_x, train_y, val_x, val_y):
        digest.update(str(array.shape).encode())
        digest.update(array.tobytes())
    standard = _given(config, train_x.shape[-1])
    standard = standard or standard_of(train_x, config.per_channel)
    _check_deviation(standard, refuse)
    return Images(
        train_x=standard.apply(train_x),
        train_y=train_y,
        val_x=standard.apply(val_x),
        val_y=val_y,
        num_classes=1 + int(max(np.max(train_y), np.max(val_y))),
        fingerprint=digest.hexdigest()[:16],
        standard=standard,
    )


def _check_deviation(standard: Standard, refuse) -> None:
    if not np.all(standard.deviation > 0):
        raise refuse(
            'a source of images whose pixels are not all the same in any '
            'channel'
        )


def _streamed(
    config: ImageConfig, found: StreamedImages, size: int, channels: int, refuse
) -> Images:
    if channels not in CHANNELS:
        allowed = '1 or 3, as images are decoded'
        raise ConfigError('config.model.channels', channels, allowed)
    made = lambda encoded, standard: Streamed(
        encoded, size, channels, found.center, standard
    )
    standard = _given(config, channels)
    if standard is None:
        raw = made(found.train, Standard(np.zeros(1), np.ones(1)))
        standard = _measured(raw, config.per_channel)
    _check_deviation(standard, refuse)
    identity = f'{found.digest} {found.center}'
    return Images(
        train_x=made(found.train, standard),
        train_y=Labels(found.train),
        val_x=made(found.val, standard),
        val_y=Labels(found.val),
        num_classes=found.num_classes,
        fingerprint=hashlib.sha256(identity.encode()).hexdigest()[:16],
        standard=standard,
        classes=found.classes,
    )


def _measured(images: Streamed, per_channel: bool) -> Standard:
    """Returns the standard of a sample, decoded in threads."""
    count = min(len(images), _SAMPLE)
    rows = np.unique(np.linspace(0, len(images) - 1, count).astype(int))

    def pixels():
        found = pool.map(lambda row: images.pixels(int(row))[0], rows)
        for done, image in enumerate(found):
            reach(done + 1)
            yield image

    with (
        concurrent.futures.ThreadPoolExecutor(_THREADS) as pool,
        progress.shown('measuring images', len(rows), 'images') as reach,
    ):
        return standard_of_bytes(pixels(), per_channel)


def train_batches(
    images: Images,
    config: ImageConfig,
    seed: int,
    host: int = 0,
    num_hosts: int = 1,
) -> Any:
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
        image, label = images.example(row, draw, augment.crop)
        image = augmented(image, draw, augment, images.standard)
        if config.shift:
            image = shifted(image, draw, config.shift, images.standard.black)
        made = {'image': image, 'label': label}
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
    return host_batches(
        examples, config.batch_size, host, num_hosts, finish, config.workers
    )


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
    size, count = config.batch_size, len(images.val_x)
    shape = images.val_x.shape[1:]

    def batch(first):
        mine = np.arange(first + host, first + size, num_hosts)
        mask = mine < count
        made = {
            'image': np.zeros((len(mine), *shape), np.float32),
            'label': np.zeros(len(mine), np.int32),
            'mask': mask,
        }
        made['image'][mask] = images.val_x[mine[mask]]
        made['label'][mask] = images.val_y[mine[mask]]
        return made

    batches = grain.MapDataset.range(0, count, size).map(batch)
    yield from iterated(batches, config.workers)
