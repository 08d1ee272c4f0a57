"""Which rows a kernel multiplies at each step along the rows.

A rows, E groups, V visits.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int


class Visits(NamedTuple):
    """What each step along the rows does, int32.

    Attributes:
      group: the group; E for the rows past the last group.
      tile: the tile of rows.
      first: the group's first row in the tile.
      last: the row after its last; `first` if there is nothing to do.
    """

    group: Int[Array, 'V']
    tile: Int[Array, 'V']
    first: Int[Array, 'V']
    last: Int[Array, 'V']


def visits_of(
    sizes: Int[Array, 'E'], num_rows: int, tile: int, *, empty: bool
) -> Visits:
    """Lists the steps along the rows, at most one more a group than tiles.

    Args:
      sizes: rows of each group, int32.
      num_rows: A, at least their sum.
      tile: rows of a tile.
      empty: whether a group without rows is visited, to write its zeros.

    Returns:
      The visits by group, then tile; those past the last do nothing.

    >>> found = visits_of(jnp.array([3, 0, 2]), 5, 4, empty=False)
    >>> [x.tolist() for x in found]
    [[0, 2, 2, 2], [0, 0, 1, 1], [0, 3, 0, 0], [3, 4, 1, 0]]
    """
    tiles = -(-num_rows // tile)
    ends = jnp.cumsum(sizes)
    starts = ends - sizes
    origin = jnp.minimum(starts // tile, tiles - 1)
    count = (ends - 1) // tile - origin + 1
    count = jnp.where(sizes > 0, count, int(empty))
    total = jnp.cumsum(count)
    visit = jnp.arange(tiles + len(sizes) - (not empty), dtype=jnp.int32)
    past = jnp.sum(total <= visit[:, None], axis=1, dtype=jnp.int32)
    # Past the end: the last one again, so that nothing new is read.
    busy = visit < total[-1]
    visit = jnp.minimum(visit, total[-1] - 1)
    group = jnp.where(busy, past, jnp.max(jnp.where(busy, past, 0)))
    at = origin[group] + visit - (total - count)[group]
    bound = lambda row: jnp.where(busy, jnp.clip(row - at * tile, 0, tile), 0)
    return Visits(group, at, bound(starts[group]), bound(ends[group]))
