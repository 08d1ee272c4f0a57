"""Embeddings of the positions of a square grid, at another resolution.

N positions of a grid of n rows and columns, maybe after one that is not of it;
D width.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def fits(old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    """Whether two shapes are of embeddings of grids that can be interpolated.

    Args:
      old: shape [N, D], as of 197 = 1 + 14 * 14 positions.
      new: shape [M, D], as N with a first position or without.
    """
    first = _first(old[0])
    return old[1:] == new[1:] and first == _first(new[0]) is not None


def interpolated(x: Float[Array, 'N D'], count: int) -> Float[Array, 'M D']:
    """Interpolates the embeddings of a grid bilinearly, corner to corner.

    Row i of m reads the old grid at `i (n - 1) / (m - 1)`, and so do columns; a
    first position that is not of the grid stays as it is. Source: ViT, arXiv
    2010.11929, section 3.2, whose code takes `scipy.ndimage.zoom` of order 1.

    Args:
      x: embeddings, float.
      count: M, number of positions, one that `fits`.
    """
    first = _first(len(x))
    assert first is not None
    old, new = math.isqrt(len(x) - first), math.isqrt(count - first)
    at = np.linspace(0, old - 1, new)[:, None]
    # [new, old]: the share of each old row in a new one.
    share = np.maximum(0, 1 - np.abs(at - np.arange(old)))
    share = jnp.asarray(share, jnp.float32)
    grid = x[first:].astype(jnp.float32).reshape(old, old, -1)
    made = jnp.einsum('ai,bj,ijd->abd', share, share, grid, precision='highest')
    made = made.reshape(new * new, -1).astype(x.dtype)
    return jnp.concatenate([x[:first], made])


def _first(count: int) -> int | None:
    """Returns how many positions are not of the grid; None if there is none."""
    for first in (0, 1):
        side = math.isqrt(count - first)
        if side and side * side == count - first:
            return first
    return None
