"""Images of a batch mixed in pairs: mixup and cutmix.

B images of a host's batch, H rows, W columns, C channels.
"""

import math

import numpy as np
from jaxtyping import Float

from moe.workloads.vision.data.augment import Augment

Batch = dict[str, np.ndarray]
Shares = Float[np.ndarray, 'H W']


def shares(
    draw: np.random.Generator, config: Augment, height: int, width: int
) -> Shares:
    """Draws the share that an image has in each pixel of its mixture.

    Mixup has one share l ~ Beta(a, a) in all pixels (arXiv 1710.09412). Cutmix
    has 0 in a rectangle of the sides `sqrt(1 - l)` times the image's, whose
    centre is anywhere, and 1 outside (arXiv 1905.04899).

    Args:
      draw: where the random numbers come from.
      config: the alphas; with both, each has half of the images.
      height: H.
      width: W.
    """
    cuts = not config.mixup or (config.cutmix > 0 and draw.integers(2) > 0)
    alpha = config.cutmix if cuts else config.mixup
    share = draw.beta(alpha, alpha)
    if not cuts:
        return np.full((height, width), share, np.float32)
    made = np.ones((height, width), np.float32)
    side = math.sqrt(1 - share)
    rows, columns = (
        _cut(int(draw.integers(size)), side * size) for size in made.shape
    )
    made[rows, columns] = 0
    return made


def _cut(center: int, length: float) -> slice:
    first = center - math.floor(length / 2)
    return slice(max(first, 0), max(first + math.floor(length), 0))


def mixed(batch: Batch) -> Batch:
    """Mixes each image with that of half a batch away.

    That is the same image on any number of hosts: a host has every n-th row of
    the global batch, so that half of its own batch is half of the global one.

    Args:
      batch: 'image', float32 [B, H, W, C], 'label', int32 [B], and 'share',
        float32 [B, H, W], see `shares`; B is even.

    Returns:
      The mixtures, with 'other', int32 [B], the label of each other image, and
      'weight', float32 [B], the share of an image's own pixels, instead of
      'share'.
    """
    batch = dict(batch)
    share = batch.pop('share')
    half = len(share) // 2
    image = batch['image'] * share[..., None]
    image += np.roll(batch['image'], half, axis=0) * (1 - share[..., None])
    weight = np.asarray(np.mean(share, axis=(1, 2), dtype=np.float64))
    return {
        **batch,
        'image': image,
        'other': np.roll(batch['label'], half),
        'weight': weight.astype(np.float32),
    }
