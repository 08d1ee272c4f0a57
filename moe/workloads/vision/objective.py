"""The loss of image classification: mixed labels, smoothed labels.

B images, K classes.
"""

from collections.abc import Mapping
from typing import Any

import jax
import optax
from jaxtyping import Array, Float


def cross_entropies(
    logits: Float[Array, 'B K'], batch: Mapping[str, Any], smoothing: float
) -> Float[Array, 'B']:
    """Returns the loss of each image, nats.

    `w CE(label) + (1 - w) CE(other)` for mixed images, where CE is the cross
    entropy. With smoothing e it is `(1 - e)` of that and e of the mean over all
    classes (arXiv 1512.00567, section 7).

    Args:
      logits: scores of the classes, float32.
      batch: 'label', int32 [B]; of mixed images 'other', int32 [B], and
        'weight', float32 [B], that of 'label'.
      smoothing: e.
    """
    entropy = optax.softmax_cross_entropy_with_integer_labels
    losses = entropy(logits, batch['label'])
    if 'other' in batch:
        weight = batch['weight']
        others = entropy(logits, batch['other'])
        losses = weight * losses + (1 - weight) * others
    if smoothing:
        uniform = -jax.nn.log_softmax(logits).mean(axis=-1)
        losses = (1 - smoothing) * losses + smoothing * uniform
    return losses
