"""Encoded images where they lie, and what decodes them.

N images, S pixels a side after decoding, C channels.
"""

import abc
import contextlib
import dataclasses
import io
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageOps

from moe.config import ConfigError
from moe.workloads.vision.data.augment import crop_box
from moe.workloads.vision.data.standard import Standard

FILES = 'config.data.source.files'
Pixels = UInt8[np.ndarray, 'S S C']
_WIDE = 257  # values of 16 bits for one of 8

# Pillow warns of damaged EXIF, which whole images of ImageNet have.
warnings.filterwarnings('ignore', module=r'PIL\.TiffImagePlugin')


class Encoded(abc.ABC):
    """N encoded images with labels, of which any can be read."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """Returns N."""

    @abc.abstractmethod
    def read(self, index: int) -> tuple[bytes, int]:
        """Returns an encoded image and its label."""

    def label(self, index: int) -> int:
        """Returns the label of an image."""
        return self.read(index)[1]

    @abc.abstractmethod
    def name(self, index: int) -> str:
        """Returns where an image lies, for messages."""


@dataclasses.dataclass(frozen=True)
class StreamedImages:
    """Disjoint training and validation images, as a streamed source finds them.

    Attributes:
      train: images to train on.
      val: images to validate on.
      num_classes: the number of classes.
      center: share of the shorter side that the central square has, which is
        what validation sees.
      digest: a hash of all images and labels, or of what identifies them.
      classes: names of the classes in the order of the labels; () if they have
        numbers alone.
    """

    train: Encoded
    val: Encoded
    num_classes: int
    center: float
    digest: str
    classes: tuple[str, ...] = ()


class StreamedSource(abc.ABC):
    """A source of images that are not all in memory."""

    @abc.abstractmethod
    def open(self) -> StreamedImages:
        """Finds the images, and reads few of them; raises ConfigError."""


class Unreadable(ConfigError):
    """An image that cannot be read or decoded.

    Attributes:
      what: what is wrong with it, such as 'is no image'.
    """

    what: str = ''


def unreadable(value: str, name: str, what: str) -> Unreadable:
    """Returns the error of an image.

    Args:
      value: the files that are named.
      name: where the image lies.
      what: what is wrong with it.
    """
    error = Unreadable(FILES, value, f'of images ({name} {what})')
    error.what = what
    return error


def opened(data: bytes, name: str, channels: int | None = None) -> Image.Image:
    """Decodes an image, upright.

    Args:
      data: what any format has that Pillow reads.
      name: where it lies, for messages.
      channels: 1 for grey, 3 for red, green and blue; None as it is.

    Raises:
      Unreadable: if it is no image, or cut off.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        with contextlib.suppress(Exception):  # damage of the EXIF alone
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith('I'):  # of 16 bits
            narrow = np.clip(np.asarray(image) // _WIDE, 0, 255)
            image = Image.fromarray(narrow.astype(np.uint8))
        if channels is None:
            channels = 1 if image.mode in ('1', 'L', 'LA') else 3
        if 'transparency' in image.info:
            image = image.convert('RGBA')
        return image.convert('L' if channels == 1 else 'RGB')
    except Exception as error:  # decoders raise all kinds
        what = 'is no image' if not data else f'cannot be decoded: {error}'
        if isinstance(error, Image.UnidentifiedImageError):
            what = 'is no image'
        raise unreadable(name, name, what) from None


@dataclasses.dataclass(frozen=True)
class Streamed:
    """Encoded images like a standardised array [N, S, S, C].

    Indexed, it has the central square of each image; with `crop` a random
    rectangle. Both are resized to S x S, bilinear with the support of
    reduction.

    Attributes:
      encoded: the images.
      size: S.
      channels: C, 1 or 3.
      center: share of the shorter side that the central square has.
      standard: of the pixels.
    """

    encoded: Encoded
    size: int
    channels: int
    center: float
    standard: Standard

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Returns that of the array."""
        return (len(self.encoded), self.size, self.size, self.channels)

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: Any) -> Float[np.ndarray, '... S S C']:
        if isinstance(index, (int, np.integer)):
            return self.standard.from_bytes(self.pixels(int(index))[0])
        rows = np.arange(len(self))[index]
        images = [self[int(i)] for i in rows]
        return (
            np.stack(images)
            if images
            else np.zeros((0, *self.shape[1:]), np.float32)
        )

    def pixels(
        self,
        index: int,
        draw: np.random.Generator | None = None,
        least: float = 1.0,
    ) -> tuple[Pixels, int]:
        """Returns an image, not standardised, and its label.

        Args:
          index: its number.
          draw: draws a rectangle of it; None takes the central square.
          least: least share of the image's area that the rectangle has.
        """
        data, label = self.encoded.read(index)
        image = opened(data, self.encoded.name(index), self.channels)
        width, height = image.size
        if draw is not None:
            box = crop_box(height, width, draw, least)
        else:
            side = self.center * min(width, height)
            left, top = (width - side) / 2, (height - side) / 2
            box = left, top, left + side, top + side
        if box != (0, 0, self.size, self.size):
            both = (self.size, self.size)
            image = image.resize(both, Image.Resampling.BILINEAR, box=box)
        return np.asarray(image).reshape(self.shape[1:]), label


@dataclasses.dataclass(frozen=True)
class Labels:
    """The labels of encoded images, like an array [N]; each read when asked.

    Attributes:
      encoded: the images.
    """

    encoded: Encoded

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: Any) -> Int[np.ndarray, '...']:
        rows = np.arange(len(self))[index]
        flat = [self.encoded.label(int(i)) for i in np.ravel(rows)]
        return np.array(flat, np.int32).reshape(rows.shape)


def class_numbers(names: Iterable[str]) -> Mapping[str, int]:
    """Returns the label of each class: its place among the sorted names."""
    return {name: i for i, name in enumerate(sorted(names))}


def encoded_png(pixels: UInt8[np.ndarray, 'H W *C']) -> bytes:
    """Returns an image as the bytes of a PNG.

    Args:
      pixels: [H, W] or [H, W, C] of one channel or three.
    """
    file = io.BytesIO()
    flat = pixels[..., 0] if pixels.shape[2:] == (1,) else pixels
    Image.fromarray(flat).save(file, 'PNG')
    return file.getvalue()
