"""Which rows a kernel multiplies at each step.

A rows, E groups, V visits, C cores.

A visit is of rows of one group in one block of rows. Visits that share what a
kernel keeps on the chip are a band. A kernel takes all visits of a band for a
tile of the matrices that it reads or writes, then for the next tile, then the
next band.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int


class Visits(NamedTuple):
    """What is visited, int32.

    Attributes:
      group: the group; E for the rows past the last group.
      row: first row of the block.
      first: the group's first row in the block.
      last: the row after its last; `first` if there is nothing to do.
      number: how many there are; those past them repeat the last one.
    """

    group: Int[Array, 'V']
    row: Int[Array, 'V']
    first: Int[Array, 'V']
    last: Int[Array, 'V']
    number: Int[Array, '']


class Order(NamedTuple):
    """In which order cores take visits, int32.

    Attributes:
      start: first visit of the band of each visit.
      size: visits of the band of each visit.
      bounds: first visit of each core, and the number of visits.
    """

    start: Int[Array, 'V']
    size: Int[Array, 'V']
    bounds: Int[Array, 'C+1']


def visits_of(
    sizes: Int[Array, 'E'],
    num_rows: int,
    block: int,
    *,
    align: int,
    empty: bool,
) -> Visits:
    """Lists the visits, at most one more a group than blocks.

    Args:
      sizes: rows of each group, int32.
      num_rows: A, at least their sum.
      block: rows of a block.
      align: a group's first block starts at a multiple of so many rows.
      empty: whether a group without rows is visited, to write its zeros.

    Returns:
      The visits by group, then row.

    >>> sizes = jnp.array([3, 0, 2])
    >>> found = visits_of(sizes, 5, 4, align=4, empty=False)
    >>> [x.tolist() for x in found]
    [[0, 2, 2, 2], [0, 0, 4, 4], [0, 3, 0, 0], [3, 4, 1, 0], 3]
    """
    blocks = -(-num_rows // block)
    ends = jnp.cumsum(sizes)
    starts = ends - sizes
    last_start = (num_rows - 1) // align * align
    origin = jnp.minimum(starts // align * align, last_start)
    count = (ends - 1 - origin) // block + 1
    count = jnp.where(sizes > 0, count, int(empty))
    total = jnp.cumsum(count)
    visit = jnp.arange(blocks + len(sizes) - (not empty), dtype=jnp.int32)
    past = jnp.sum(total <= visit[:, None], axis=1, dtype=jnp.int32)
    busy = visit < total[-1]
    visit = jnp.minimum(visit, total[-1] - 1)
    group = jnp.where(busy, past, jnp.max(jnp.where(busy, past, 0)))
    row = origin[group] + (visit - (total - count)[group]) * block
    bound = lambda end: jnp.where(busy, jnp.clip(end - row, 0, block), 0)
    return Visits(
        group, row, bound(starts[group]), bound(ends[group]), total[-1]
    )


def order_of(
    bands: Int[Array, 'V'], number: Int[Array, ''], splits: Int[Array, 'B']
) -> Order:
    """Divides visits among cores, at the beginnings of bands.

    Args:
      bands: the band of each visit, in ascending order, int32.
      number: how many visits there are.
      splits: first band of each core but the first.

    >>> order = order_of(jnp.array([0, 0, 1, 1, 1]), 4, jnp.array([1]))
    >>> [x.tolist() for x in order]
    [[0, 0, 2, 2, 2], [2, 2, 2, 2, 2], [0, 2, 4]]
    """
    visit = jnp.arange(len(bands))
    there = visit < number
    before = (bands[None, :] < bands[:, None]) & there
    among = (bands[None, :] == bands[:, None]) & there
    total = lambda mask: jnp.sum(mask, axis=-1, dtype=jnp.int32)
    inner = total((bands < splits[:, None]) & there)
    ends = jnp.zeros(1, jnp.int32), inner, jnp.asarray(number)[None]
    bounds = jnp.concatenate(ends)
    return Order(total(before), total(among), bounds)


def at(order: Order, core: Any, step: Any, places: int) -> tuple[Any, Any, Any]:
    """Returns which visit, with which tile of a matrix, a core has at a step.

    Args:
      order: references to the three arrays of `Order`.
      core: number of the core, int32.
      step: number of the step, int32; steps past the core's last repeat it.
      places: number of tiles of a matrix.

    Returns:
      The visit, the number of the tile, and whether the step is the core's.
    """
    begin = order.bounds[core]
    steps = (order.bounds[core + 1] - begin) * places
    busy = step < steps
    step = jnp.minimum(step, steps - 1)
    if places == 1:
        return begin + step, 0, busy
    near = begin + lax.div(step, jnp.int32(places))  # of the same band
    start, size = order.start[near], order.size[near]
    inside = step - (start - begin) * places
    return start + lax.rem(inside, size), lax.div(inside, size), busy
