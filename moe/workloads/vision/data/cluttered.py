"""Cluttered digits: a harder set of images, made from those of scikit-learn.

N images, S rows and columns of pixels.
"""

from typing import Annotated

import numpy as np
import scipy.ndimage
from jaxtyping import Float

from moe.config import NaturalInt, PositiveInt, Within
from moe.workloads.vision.data.augment import affine_matrix
from moe.workloads.vision.data.sources import (
    SOURCES,
    LabelledImages,
    ValFraction,
    digits,
)

Grey = Float[np.ndarray, 'S S']
Draw = np.random.Generator

STYLES = ('bright', 'dark', 'outline', 'stripes')

_ANGLE = 0.25  # radians, either way
_SHEAR = 0.15  # the same
_SCALES = 1.3, 1.7  # of a digit
_PIECE = 4  # rows and columns of a digit that a distractor shows
_NOISE = 0.1  # standard deviation, where a stroke is 1
_PERIOD = 2  # pixels, of stripes


@SOURCES.register('cluttered')
def cluttered(
    *,
    size: Annotated[int, Within(16, 256)] = 16,
    train_images: PositiveInt = 8192,
    val_images: PositiveInt = 1024,
    distractors: NaturalInt = 1,
    styles: Annotated[int, Within(1, len(STYLES))] = len(STYLES),
    val_fraction: ValFraction = 0.25,
) -> LabelledImages:
    """Makes images of a digit among pieces of others, in unlike styles.

    Each shows one of scikit-learn's digits, turned, sheared, scaled and placed
    anywhere as a whole, with pieces of others as distractors; the label is the
    digit's. It is drawn bright on dark, dark on bright, as its outline, or as
    upright stripes on lying ones, and has noise. Images to train on and to
    validate on are made from disjoint digits, those of the source `digits`, and
    are always the same.

    After cluttered MNIST, arXiv 1406.6247, section 4.1; the styles are ours.

    Args:
      size: S, rows and columns of an image, pixels.
      train_images: number of images to train on.
      val_images: number of images to validate on.
      distractors: number of pieces of other digits in an image.
      styles: how many of the styles there are, in the order above.
      val_fraction: share of the digits that those to validate on are made from.

    Returns:
      The images, with pixels from 0 to 1.

    Raises:
      ConfigError: as `digits`.
    """
    draws = np.random.default_rng(0).spawn(2)
    train, val = (
        _scenes(originals, count, size, distractors, styles, draw)
        for originals, count, draw in zip(
            digits(val_fraction=val_fraction),
            (train_images, val_images),
            draws,
            strict=True,
        )
    )
    return LabelledImages(train, val)


def placed(digit: Grey, size: int, draw: Draw) -> Grey:
    """Returns a canvas with a digit somewhere on it, as a whole.

    Args:
      digit: pixels from 0 to 1.
      size: S of the canvas.
      draw: where the random numbers come from.
    """
    matrix = affine_matrix(
        draw.uniform(-_ANGLE, _ANGLE),
        draw.uniform(*_SCALES),
        draw.uniform(-_SHEAR, _SHEAR),
    )
    center = (np.array(digit.shape) - 1) / 2
    # Half of the sides of the box around the moved corners.
    reach = np.minimum(np.abs(matrix) @ center, (size - 1) / 2)
    goal = draw.uniform(reach, size - 1 - reach)
    back = np.linalg.inv(matrix)
    return scipy.ndimage.affine_transform(
        digit,
        back,
        center - back @ goal,
        output_shape=(size, size),
        order=1,
        mode='grid-constant',
    )


def styled(canvas: Grey, style: str, draw: Draw) -> Grey:
    """Returns what is bright on a dark canvas in another style.

    Args:
      canvas: pixels from 0 to 1.
      style: one of `STYLES`.
      draw: draws the phases of stripes.
    """
    if style == 'dark':
        return 1 - canvas
    if style == 'outline':
        return np.hypot(*np.gradient(canvas))
    if style == 'stripes':
        places = np.arange(len(canvas)) + draw.integers(_PERIOD, size=(2, 1))
        lying, upright = places % _PERIOD < _PERIOD // 2
        return canvas * upright + (1 - canvas) * lying[:, None]
    return canvas


def _scenes(originals, count, size, distractors, styles, draw):
    """Returns pixels [N, S, S, 1] and labels [N]."""
    x, labels = originals[0][..., 0], originals[1]
    scenes = np.empty((count, size, size, 1), np.float32)
    chosen = draw.integers(len(x), size=count)
    for scene, index in zip(scenes, chosen, strict=True):
        canvas = placed(x[index], size, draw)
        for other in draw.integers(len(x), size=distractors):
            canvas = np.maximum(canvas, _piece(x[other], size, draw))
        canvas = styled(canvas, STYLES[draw.integers(styles)], draw)
        canvas = canvas + draw.normal(0, _NOISE, canvas.shape)
        scene[..., 0] = np.clip(canvas, 0, 1)
    return scenes, labels[chosen]


def _piece(digit: Grey, size: int, draw: Draw) -> Grey:
    """Returns a canvas with a square of a digit somewhere on it."""
    top, left = draw.integers(len(digit) - _PIECE, size=2, endpoint=True)
    row, column = draw.integers(size - _PIECE, size=2, endpoint=True)
    canvas = np.zeros((size, size), digit.dtype)
    piece = digit[top : top + _PIECE, left : left + _PIECE]
    canvas[row : row + _PIECE, column : column + _PIECE] = piece
    return canvas
