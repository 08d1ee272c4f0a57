"""Augmentation of training images, each by its own draws.

H rows, W columns, C channels of pixels. An image is standardised, float32
[H, W, C]; what comes from outside of it is black. All of it is off by default.
"""

import dataclasses
import math
from typing import Annotated

import numpy as np
import scipy.ndimage
from jaxtyping import Float, UInt8
from PIL import Image as Pillow

from moe.config import NaturalFloat, Within
from moe.workloads.vision.data.rand_augment import RandAugment, rand_augmented
from moe.workloads.vision.data.standard import Standard

Image = Float[np.ndarray, 'H W C']
Matrix = Float[np.ndarray, '2 2']
Black = np.ndarray | float

_TRIES = 10  # of a crop whose sides are longer than the image's
_RATIO = math.log(4 / 3)  # of the sides of a crop, at most


@dataclasses.dataclass(frozen=True)
class Augment:
    """The config of the augmentation of training images, in its order.

    Attributes:
      crop: least share of the area that a random crop has, which is resized to
        the image; 1 is no crop, ImageNet's usual value 0.08.
      flip: whether half of the images are mirrored, left to right.
      rand_augment: random operations of one strength (arXiv 1909.13719); None
        is off.
      rotation: largest angle of a random rotation either way, degrees.
      scale: largest share by which an image grows or shrinks at random.
      shear: largest angle of a random horizontal shear either way, degrees.
      mixup: alpha of the beta distribution of the shares of two images in a
        mixed one (arXiv 1710.09412); 0 is off.
      cutmix: alpha of the beta distribution of the area outside of the
        rectangle that is another image's (arXiv 1905.04899); 0 is off. With
        `mixup` too, each image has one of them.
    """

    crop: Annotated[float, Within(0.01, 1.0)] = 1.0
    flip: bool = False
    rand_augment: RandAugment | None = None
    rotation: Annotated[float, Within(0.0, 180.0)] = 0.0
    scale: Annotated[float, Within(0.0, 0.9)] = 0.0
    shear: Annotated[float, Within(0.0, 80.0)] = 0.0
    mixup: NaturalFloat = 0.0
    cutmix: NaturalFloat = 0.0

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with others."""
        return bool(self.mixup or self.cutmix)


def augmented(
    image: Image | UInt8[np.ndarray, 'H W C'],
    draw: np.random.Generator,
    config: Augment,
    standard: Standard,
) -> Image:
    """Returns an image augmented by itself: all but crops and mixtures.

    Args:
      image: the image, or pixels that are 255ths, not yet standardised.
      draw: where the random numbers come from; what is off draws none.
      config: what is on.
      standard: of the image's pixels.
    """
    if config.flip and draw.integers(2):
        image = image[:, ::-1]
    if config.rand_augment:
        if image.dtype != np.uint8:
            image = standard.to_bytes(image)
        image = rand_augmented(image, draw, config.rand_augment)
    if image.dtype == np.uint8:
        image = standard.from_bytes(image)
    if config.rotation or config.scale or config.shear:
        angle, shear = (
            math.radians(draw.uniform(-a, a)) if a else 0.0
            for a in (config.rotation, config.shear)
        )
        scale = 1.0
        if config.scale:
            scale += draw.uniform(-config.scale, config.scale)
        matrix = affine_matrix(angle, scale, shear)
        image = affine(image, matrix, standard.black)
    return image


def affine_matrix(angle: float, scale: float, shear: float) -> Matrix:
    """Returns the matrix of a shear, then a rotation and a scaling.

    `scale [[cos a, -sin a], [sin a, cos a]] [[1, 0], [tan s, 1]]`, which takes
    (row, column), from the image's centre, to where the pixel goes.

    Args:
      angle: a, radians.
      scale: factor by which the image grows.
      shear: s, radians.
    """
    cosine, sine, slope = math.cos(angle), math.sin(angle), math.tan(shear)
    return scale * np.array(
        [[cosine - sine * slope, -sine], [sine + cosine * slope, cosine]]
    )


def affine(image: Image, matrix: Matrix, black: Black) -> Image:
    """Moves every pixel by a matrix about the centre; bilinear.

    Args:
      image: the image.
      matrix: see `affine_matrix`.
      black: value of what lies outside, [C] or a number.

    Returns:
      The image of the same shape.
    """
    back = np.linalg.inv(matrix)
    center = (np.array(image.shape[:2]) - 1) / 2
    offset = center - back @ center
    colors = np.broadcast_to(black, image.shape[2:])
    channels = [
        scipy.ndimage.affine_transform(
            image[..., c],
            back,
            offset,
            order=1,
            mode='grid-constant',
            cval=float(colors[c]),
        )
        for c in range(image.shape[2])
    ]
    return np.stack(channels, axis=-1)


def shifted(
    image: Image, draw: np.random.Generator, shift: int, black: Black
) -> Image:
    """Returns a random window of an image with a black border.

    Args:
      image: the image.
      draw: where the random numbers come from.
      shift: pixels of the border, on every side.
      black: standardised value of black, [C] or a number.
    """
    height, width, channels = image.shape
    top, left = draw.integers(0, 2 * shift, 2, endpoint=True)
    shape = (height + 2 * shift, width + 2 * shift, channels)
    bordered = np.empty(shape, image.dtype)
    bordered[:] = black
    bordered[shift : shift + height, shift : shift + width] = image
    return bordered[top : top + height, left : left + width]


def crop_box(
    height: int, width: int, draw: np.random.Generator, least: float
) -> tuple[float, float, float, float]:
    """Draws a rectangle: its area uniform, the log of its sides' ratio too.

    The ratio is from 3/4 to 4/3. Source: arXiv 1409.4842, section 6.

    Args:
      height: H.
      width: W.
      draw: where the random numbers come from.
      least: least share of the image's area.

    Returns:
      Left, top, right and bottom, pixels; the largest rectangle of an allowed
      ratio in the middle, if ten draws are too long for the image.
    """
    for _ in range(_TRIES):
        area = draw.uniform(least, 1.0) * height * width
        ratio = math.exp(draw.uniform(-_RATIO, _RATIO))
        columns, rows = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if columns <= width and rows <= height:
            left = draw.uniform(0, width - columns)
            top = draw.uniform(0, height - rows)
            return left, top, left + columns, top + rows
    columns = min(width, height * 4 / 3)
    rows = min(height, width * 4 / 3)
    left, top = (width - columns) / 2, (height - rows) / 2
    return left, top, left + columns, top + rows


def cropped(image: Image, draw: np.random.Generator, least: float) -> Image:
    """Returns a random crop, resized to the image's size; bilinear.

    Args:
      image: the image.
      draw: where the random numbers come from.
      least: least share of the image's area.
    """
    height, width, count = image.shape
    box = crop_box(height, width, draw, least)
    channels = [
        Pillow.fromarray(image[..., c]).resize(
            (width, height), Pillow.Resampling.BILINEAR, box=box
        )
        for c in range(count)
    ]
    return np.stack([np.asarray(c) for c in channels], axis=-1)
