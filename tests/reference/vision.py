"""The vision transformer by loops over images and patches, in float64.

B batch, H rows, W columns, C channels, p pixels a side of a patch, S patches.
"""

import numpy as np

from tests.reference import model


def patches(images, size):
    """Images [B, H, W, C] as [B, S, p * p * C], row after row of patches.

    Within a patch the pixels go row after row, a pixel's channels together.
    """
    batch, height, width, channels = images.shape
    rows, columns = height // size, width // size
    cut = np.zeros((batch, rows * columns, size * size * channels))
    for b, i, j, c in np.ndindex(images.shape):
        patch = (i // size) * columns + j // size
        pixel = (i % size) * size + j % size
        cut[b, patch, pixel * channels + c] = images[b, i, j, c]
    return cut


def assembled(cut, shape, size):
    """The images of a shape [B, H, W, C] that have these patches."""
    images = np.zeros(shape)
    # Where each patch's numbers come from: cut the pixels' own addresses.
    address = np.arange(images[0].size, dtype=float).reshape(1, *shape[1:])
    address = patches(address, size)[0].astype(int)
    for b in range(len(images)):
        images[b].reshape(-1)[address.reshape(-1)] = cut[b].reshape(-1)
    return images


def logits(images, params, size, options, mask):
    """Class scores [B, classes], and the Output of every mixture.

    Args:
      images: pixels [B, H, W, C].
      params: of the model. One more position than patches is a class token,
        which the head reads instead of the mean.
      size: p.
      options: of `model.stack`.
      mask: live images [B].
    """
    x = patches(images, size) @ params['patches']
    position = params['position_embedding']
    token = len(position) - x.shape[1]
    before = np.zeros((len(x), token, x.shape[2]))
    x = np.concatenate([before, x], axis=1) + position
    tokens = np.zeros(x.shape[:2], bool)
    for b in range(len(x)):
        tokens[b] = mask[b]
    stack = params['stack']
    x, mixtures = model.stack(x, stack, options, causal=False, mask=tokens)
    x = model.norm(x, params['norm'], options['epsilon'])
    scores = np.zeros((len(x), params['head'].shape[1]))
    for b in range(len(x)):
        pooled = x[b, 0] if token else sum(x[b]) / len(x[b])
        if 'head_hidden' in params:
            inner = pooled @ params['head_hidden']
            pooled = np.tanh(inner + params['head_hidden_bias'])
        scores[b] = pooled @ params['head'] + params['head_bias']
    return scores, mixtures
