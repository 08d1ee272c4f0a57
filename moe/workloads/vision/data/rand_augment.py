"""RandAugment: a number of random operations of one strength (1909.13719).

The fourteen operations of the paper, with the ranges of its public code, in
which strength 10 is the end of each range and larger ones go on. H rows, W
columns, C channels.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageOps

from moe.config import PositiveInt, Within

Pixels = UInt8[np.ndarray, 'H W C']
# Takes an image, the strength over 10, and -1 or 1.
Operation = Callable[[Image.Image, float, int], Image.Image]

CHANNELS = (1, 3)
_GRAY = 128  # of what comes from outside
_TRANSLATION = 100 / 331  # of the side, pixels of those of the paper's images


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """The config of RandAugment.

    Attributes:
      layers: N, number of operations of an image.
      magnitude: M, their strength; 10 is the end of AutoAugment's ranges.
    """

    layers: PositiveInt = 2
    magnitude: Annotated[float, Within(0.0, 30.0)] = 10.0


def rand_augmented(
    pixels: Pixels, draw: np.random.Generator, config: RandAugment
) -> Pixels:
    """Applies operations that are drawn with replacement, one after another.

    Args:
      pixels: an image of 1 or 3 channels.
      draw: where the random numbers come from.
      config: how many, and how strong.
    """
    gray = pixels.shape[-1] == 1
    image = Image.fromarray(pixels[..., 0] if gray else pixels)
    names = list(OPERATIONS)
    for _ in range(config.layers):
        name = names[draw.integers(len(names))]
        sign = 1 - 2 * int(draw.integers(2))
        image = OPERATIONS[name](image, config.magnitude / 10, sign)
    return np.asarray(image).reshape(pixels.shape)


def _enhanced(kind: Callable) -> Operation:
    # 1 leaves the image as it is, 0 takes the property away, 1.9 adds to it.
    def operation(image, strength, sign):
        return kind(image).enhance(max(1 + 0.9 * sign * strength, 0.0))

    return operation


def _moved(
    image: Image.Image, matrix: tuple[float, float, float, float], shift=(0, 0)
) -> Image.Image:
    """Takes each pixel from `matrix (x, y) + shift` about the centre."""
    a, b, c, d = matrix
    x, y = ((size - 1) / 2 for size in image.size)
    # Pillow's coordinates are those of corners: half a pixel more.
    x, y = x + 0.5, y + 0.5
    coefficients = (
        *(a, b, x - a * x - b * y + shift[0]),
        *(c, d, y - c * x - d * y + shift[1]),
    )
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        coefficients,
        resample=Image.Resampling.BILINEAR,
        fillcolor=(_GRAY,) * len(image.getbands()),
    )


def _rotated(image, strength, sign):
    angle = math.radians(30 * strength * sign)
    cosine, sine = math.cos(angle), math.sin(angle)
    return _moved(image, (cosine, -sine, sine, cosine))


def _solarized(image, strength, sign):
    return ImageOps.solarize(image, max(256 - int(256 * strength), 0))


def _posterized(image, strength, sign):
    return ImageOps.posterize(image, max(8 - int(4 * strength), 1))


def _translated(axis: int) -> Operation:
    def operation(image, strength, sign):
        pixels = round(_TRANSLATION * strength * image.size[axis]) * sign
        shift = (pixels, 0) if axis == 0 else (0, pixels)
        return _moved(image, (1.0, 0.0, 0.0, 1.0), shift)

    return operation


OPERATIONS: dict[str, Operation] = {
    'identity': lambda image, strength, sign: image,
    'auto_contrast': lambda image, strength, sign: ImageOps.autocontrast(image),
    'equalize': lambda image, strength, sign: ImageOps.equalize(image),
    'rotate': _rotated,
    'solarize': _solarized,
    'color': _enhanced(ImageEnhance.Color),
    'posterize': _posterized,
    'contrast': _enhanced(ImageEnhance.Contrast),
    'brightness': _enhanced(ImageEnhance.Brightness),
    'sharpness': _enhanced(ImageEnhance.Sharpness),
    'shear_x': lambda image, strength, sign: _moved(
        image, (1.0, 0.3 * strength * sign, 0.0, 1.0)
    ),
    'shear_y': lambda image, strength, sign: _moved(
        image, (1.0, 0.0, 0.3 * strength * sign, 1.0)
    ),
    'translate_x': _translated(0),
    'translate_y': _translated(1),
}
