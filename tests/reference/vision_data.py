"""What is done to images, pixel after pixel in float64.

H rows, W columns, C channels.
"""

import math

import numpy as np


def affine(image, matrix, black):
    """An image [H, W, C] moved by a matrix about its centre, bilinear.

    Args:
      image: pixels.
      matrix: [[a, b], [c, d]]: from (row, column) to where it goes.
      black: [C], value of what is outside.
    """
    height, width = image.shape[:2]
    (a, b), (c, d) = matrix
    determinant = a * d - b * c
    made = np.zeros(image.shape)

    def at(row, column, channel):
        inside = 0 <= row < height and 0 <= column < width
        return image[row, column, channel] if inside else black[channel]

    for i, j, k in np.ndindex(image.shape):
        down, right = i - (height - 1) / 2, j - (width - 1) / 2
        row = (d * down - b * right) / determinant + (height - 1) / 2
        column = (a * right - c * down) / determinant + (width - 1) / 2
        top, left = math.floor(row), math.floor(column)
        for r, c_ in ((0, 0), (0, 1), (1, 0), (1, 1)):
            share = (row - top if r else top + 1 - row) * (
                column - left if c_ else left + 1 - column
            )
            made[i, j, k] += share * at(top + r, left + c_, k)
    return made


def resized(row, first, last, size):
    """A row of pixels from `first` to `last`, resized to fewer or as many.

    Each new pixel is the mean of the old ones under a triangle of the width of
    two new pixels about its centre, of at least two old ones.

    Args:
      row: pixels [W].
      first: left edge, pixels, perhaps between two.
      last: right edge.
      size: how many pixels are made.
    """
    step = (last - first) / size
    reach = max(step, 1.0)
    made = []
    for i in range(size):
        center = first + (i + 0.5) * step
        # As Pillow does: whole pixels about the ends of the triangle.
        start = max(int(center - reach + 0.5), 0)
        stop = min(int(center + reach + 0.5), len(row))
        weights = [
            max(1 - abs(j + 0.5 - center) / reach, 0)
            for j in range(start, stop)
        ]
        total = sum(
            w * row[j] for w, j in zip(weights, range(start, stop), strict=True)
        )
        made.append(total / sum(weights))
    return np.array(made)


def mixed(image, other, share):
    """The mixture of two images, by the first one's share in each pixel."""
    made = np.zeros(image.shape)
    for i, j, k in np.ndindex(image.shape):
        s = float(share[i, j])
        made[i, j, k] = s * image[i, j, k] + (1 - s) * other[i, j, k]
    return made


def cross_entropy(logits, target):
    """The cross entropy of a distribution over the classes, nats."""
    top = max(logits)
    norm = top + math.log(sum(math.exp(v - top) for v in logits))
    return -sum(p * (v - norm) for p, v in zip(target, logits, strict=True))
