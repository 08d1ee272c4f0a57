"""Sizes of the kernels' tiles, and what they read, write and multiply.

A rows, E groups, K the width that is summed over, N the width of the results,
M the number of matrices of a group that read the same rows, or add up.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

from jax.experimental.pallas import tpu as pltpu

# Rows that a register of bfloat16 holds: the least that is multiplied.
ROWS = 16
# Rows of a tile.
_TILE = 512
# Bytes of memory on the chip if the chip is not known: those of v5p and tpu7x,
# the least after v4, which has 16 MiB.
_MEMORY = 64 * 2**20


class Tiles(NamedTuple):
    """Sizes of a kernel's tiles: of rows, and of the two widths."""

    rows: int
    inner: int
    outer: int


class Work(NamedTuple):
    """The sizes of grouped products.

    Attributes:
      rows: A.
      groups: E.
      depth: K.
      width: N.
      inputs: number of arrays of rows that are read.
      matrices: number of products, each with matrices of its own.
      outputs: number of results.
    """

    rows: int
    groups: int
    depth: int
    width: int
    inputs: int = 1
    matrices: int = 1
    outputs: int = 1


def executed(work: Work) -> float:
    """Returns the FLOPs that grouped products execute at most.

    `2 M (A + E ROWS) K N`: every row once, and at each of the E ends of groups
    one block of rows twice.

    Args:
      work: the products.
    """
    rows = work.rows + work.groups * ROWS
    return 2.0 * work.matrices * rows * work.depth * work.width


def product_tiles(work: Work) -> Tiles:
    """Returns the tiles of `products` that move the fewest bytes.

    Args:
      work: the products.
    """
    fitting = _fitting(work, _product_memory)
    return min(fitting, key=lambda tiles: product_bytes(work, tiles))


def outer_tiles(work: Work) -> Tiles:
    """Returns the tiles of `outer_products` that move the fewest bytes.

    Args:
      work: the products.
    """
    fitting = _fitting(work, _outer_memory)
    return min(fitting, key=lambda tiles: outer_bytes(work, tiles))


def product_bytes(work: Work, tiles: Tiles) -> float:
    """Returns the bytes that `products` reads and writes, at most.

    Rows are read once for each column of tiles. So are matrices once for a
    group if a tile has all that is summed over, else once for a visit.

    Args:
      work: the products.
      tiles: their tiles.
    """
    visits = -(-work.rows // tiles.rows) + work.groups
    times = work.groups if tiles.inner == work.depth else visits
    columns = work.width // tiles.outer
    return 2.0 * (
        work.inputs * work.rows * work.depth * columns
        + work.matrices * times * work.depth * work.width
        + work.outputs * work.rows * work.width
    )


def outer_bytes(work: Work, tiles: Tiles) -> float:
    """Returns the bytes that `outer_products` reads and writes, at most.

    Args:
      work: the products.
      tiles: their tiles.
    """
    read = work.inputs * work.depth * (work.width // tiles.outer)
    read += work.matrices * work.width * (work.depth // tiles.inner)
    written = work.outputs * work.groups * work.depth * work.width
    return 2.0 * (work.rows * read + written)


def fits(rows: int, matrices: tuple[int, ...], count: int) -> bool:
    """Whether there are tiles for products and for their two gradients.

    Args:
      rows: A.
      matrices: the shape of one of the arrays of matrices, (E, K, N).
      count: M.
    """
    if not rows:
        return False
    groups, depth, width = matrices
    there = Work(rows, groups, depth, width, 1, count, count)
    back = Work(rows, groups, width, depth, count, count, 1)
    return bool(
        _fitting(there, _product_memory)
        and _fitting(back, _product_memory)
        and _fitting(there, _outer_memory)
    )


def _fitting(work: Work, memory: Callable[[Work, Tiles], int]) -> list[Tiles]:
    tile = min(_TILE, -(-work.rows // ROWS) * ROWS)
    memory_there, cores = chip()
    columns = _parts(work.width)
    if cores > 1:  # they divide the results by their columns
        columns = columns[1:] or columns
    found = itertools.product([tile], _parts(work.depth), columns)
    budget = memory_there * 9 // 16
    return [t for t in map(Tiles._make, found) if memory(work, t) <= budget]


def _product_memory(work: Work, tiles: Tiles) -> int:
    """Bytes of all tiles: operands and results twice, and float32 sums."""
    given = work.inputs * tiles.rows + work.matrices * tiles.outer
    results = work.outputs * tiles.rows * tiles.outer
    return 4 * given * tiles.inner + 12 * results


def _outer_memory(work: Work, tiles: Tiles) -> int:
    """The same, and masked operands."""
    given = work.inputs * tiles.inner + work.matrices * tiles.outer
    results = work.outputs * tiles.inner * tiles.outer
    return 8 * given * tiles.rows + 12 * results


def chip() -> tuple[int, int]:
    """Returns what the chip that is compiled for has.

    It is the one of the mesh in context, or of this process.

    Returns:
      Bytes of memory on the chip that kernels may fill, and its cores.
    """
    try:
        info = pltpu.get_tpu_info()
    except ValueError:  # no TPU, and no mesh of them
        return _MEMORY, 2
    return min(info.vmem_capacity_bytes, _MEMORY), info.num_cores


def _parts(width: int) -> list[int]:
    """Lists the sizes that divide a width into whole registers, and itself."""
    numbers = range(2, width // 128 + 1)
    return [width, *(width // n for n in numbers if width % (n * 128) == 0)]
