"""The standard of pixels: mean 0 and standard deviation 1.

N images, H rows, W columns, C channels; pixels are shares from 0 to 1, or any
numbers of an .npz.
"""

import dataclasses
import functools
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, UInt8

Numbers = Float[np.ndarray, 'one_or_C']


@dataclasses.dataclass(frozen=True)
class Standard:
    """What is subtracted from pixels, and what they are divided by.

    Attributes:
      mean: float64, of each channel or of all.
      deviation: standard deviation, as `mean`.
    """

    mean: Numbers
    deviation: Numbers

    @property
    def black(self) -> Numbers:
        """Returns the standardised value of a pixel 0."""
        return -self.mean / self.deviation

    def apply(
        self, pixels: Float[np.ndarray, '... #C']
    ) -> Float[np.ndarray, '... C']:
        """Returns pixels standardised, float32."""
        return ((pixels - self.mean) / self.deviation).astype(np.float32)

    def to_bytes(
        self, standardised: Float[np.ndarray, '... C']
    ) -> UInt8[np.ndarray, '... C']:
        """Returns standardised pixels as 255ths, rounded."""
        scale, first = np.float32(255 * self.deviation), 255 * self.mean
        shares = standardised * scale + np.float32(first)
        return np.clip(np.rint(shares), 0, 255).astype(np.uint8)

    def from_bytes(
        self, pixels: UInt8[np.ndarray, '... C']
    ) -> Float[np.ndarray, '... C']:
        """Returns pixels that are 255ths standardised, float32."""
        table = self._table
        if table.shape[1] == 1:
            return table[:, 0][pixels]
        made = np.empty(pixels.shape, np.float32)
        for c in range(table.shape[1]):
            made[..., c] = table[:, c][pixels[..., c]]
        return made

    @functools.cached_property
    def _table(self) -> Float[np.ndarray, '256 one_or_C']:
        """Returns what each byte becomes."""
        return self.apply(np.arange(256)[:, None] / 255)


def standard_of(
    pixels: Float[np.ndarray, 'N H W C'], per_channel: bool
) -> Standard:
    """Measures images in memory.

    Args:
      pixels: all images.
      per_channel: whether each channel has numbers of its own.
    """
    axes = (0, 1, 2) if per_channel else None
    measured = (
        f(pixels, axis=axes, dtype=np.float64) for f in (np.mean, np.std)
    )
    return Standard(*map(np.atleast_1d, measured))


def standard_of_bytes(
    images: Iterable[UInt8[np.ndarray, 'H W C']], per_channel: bool
) -> Standard:
    """Measures images one after another, the same in any order.

    Args:
      images: pixels that are 255ths.
      per_channel: whether each channel has numbers of its own.
    """
    count, total, squares = 0, 0, 0
    for image in images:
        rows = image.reshape(-1, image.shape[-1]).astype(np.int64)
        count += len(rows)
        total, squares = total + rows.sum(0), squares + (rows**2).sum(0)
    if not per_channel:
        count *= len(np.atleast_1d(total))
        total, squares = np.sum(total), np.sum(squares)
    mean = np.atleast_1d(total / max(count, 1))
    variance = np.atleast_1d(squares / max(count, 1)) - mean**2
    return Standard(mean / 255, np.sqrt(np.maximum(variance, 0)) / 255)
