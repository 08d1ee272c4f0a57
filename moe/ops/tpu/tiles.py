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
# Blocks of rows start at multiples of so many.
ALIGN = 8
# Rows of the largest block that is multiplied at a time.
BLOCK = 256
# Rows of a tile of products if others do not save bytes, and the least.
_TILE, _LEAST = 1024, 512
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
    fitting = _fitting(work, _row_tiles(work), _product_memory)
    return min(
        fitting,
        key=lambda tiles: (
            product_bytes(work, tiles),
            _places(work, tiles),
            abs(tiles.rows - _TILE),
        ),
    )


def outer_tiles(work: Work) -> Tiles:
    """Returns the tiles of `outer_products` that move the fewest bytes.

    Args:
      work: the products.
    """
    fitting = _fitting(work, _pieces(work), _outer_memory)
    shared = [t for t in fitting if outer_cores(work, t)[0] == chip()[1]]
    return min(
        shared or fitting,
        key=lambda tiles: (
            outer_bytes(work, tiles),
            _places(work, tiles),
            -tiles.rows,
        ),
    )


def cores_of(work: Work, tiles: Tiles) -> int:
    """Returns how many cores share the tiles of rows of `products`.

    Args:
      work: the products.
      tiles: their tiles.
    """
    return min(chip()[1], _ceil(work.rows, tiles.rows))


def outer_cores(work: Work, tiles: Tiles) -> tuple[int, int | None]:
    """Returns how cores share the tiles of the results of `outer_products`.

    Args:
      work: the products.
      tiles: their tiles.

    Returns:
      How many cores there are, and the axis of each result that they divide: 1,
      or 0 where 1 has no such number of tiles, or None for one core.
    """
    counts = work.depth // tiles.inner, work.width // tiles.outer
    cores = chip()[1]
    axis = next((i for i in (1, 0) if counts[i] % cores == 0), None)
    if axis is None or cores == 1:
        return 1, None
    return cores, axis


def product_bytes(work: Work, tiles: Tiles) -> float:
    """Returns the bytes that `products` reads and writes, at most.

    Rows are read once for each column of tiles, or once if a tile has all that
    is summed over. Matrices are read once for each tile of rows that has rows
    of their group, or, where a tile has all of a matrix, once for each core
    that has rows of it.

    Args:
      work: the products.
      tiles: their tiles.
    """
    columns = work.width // tiles.outer
    whole = columns == 1 and tiles.inner == work.depth
    ranges = cores_of(work, tiles) if whole else _ceil(work.rows, tiles.rows)
    read = 1 if tiles.inner == work.depth else columns
    return 2.0 * (
        work.inputs * work.rows * work.depth * read
        + work.matrices * (work.groups + ranges - 1) * work.depth * work.width
        + work.outputs * work.rows * work.width
    )


def outer_bytes(work: Work, tiles: Tiles) -> float:
    """Returns the bytes that `outer_products` reads and writes.

    Rows are read in blocks of `ROWS`, at most one more a group. Where a core
    has one row or one column of tiles, an operand stays, and both are read
    once; by each core the one whose columns are not divided. That is for groups
    of no more rows than a tile: of larger ones, rows are read for each tile of
    the results.

    Args:
      work: the products.
      tiles: their tiles.
    """
    parts, columns = work.depth // tiles.inner, work.width // tiles.outer
    cores, axis = outer_cores(work, tiles)
    x, dy = columns, parts
    if tiles.rows >= min(_usual(work), _round(work.rows)):
        x = cores if axis == 1 else 1
        if columns == (cores if axis == 1 else 1):
            dy = cores if axis == 0 else 1
    rows = work.rows + work.groups * ROWS
    read = work.inputs * work.depth * x + work.matrices * work.width * dy
    written = work.outputs * work.groups * work.depth * work.width
    return 2.0 * (rows * read + written)


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
        _fitting(there, _row_tiles(there), _product_memory)
        and _fitting(back, _row_tiles(back), _product_memory)
        and _fitting(there, _pieces(there), _outer_memory)
    )


def _fitting(
    work: Work, rows: list[int], memory: Callable[[Work, Tiles], int]
) -> list[Tiles]:
    found = itertools.product(rows, _parts(work.depth), _parts(work.width))
    budget = chip()[0] * 13 // 16
    return [t for t in map(Tiles._make, found) if memory(work, t) <= budget]


def _row_tiles(work: Work) -> list[int]:
    """Sizes that divide the rows among the cores, and those among tiles."""
    cores = chip()[1]
    counts = (scale << power for power in range(20) for scale in (2, 3))
    sizes = [_round(_ceil(work.rows, cores * n)) for n in (1, *counts)]
    least = min(_LEAST, _round(_ceil(work.rows, cores)))
    return [size for size in sizes if size >= least]


def _pieces(work: Work) -> list[int]:
    """Sizes of pieces of groups: what most have, and less."""
    sizes = (_usual(work) >> power for power in range(20))
    whole = _round(work.rows)
    found = {min(_round(size), whole) for size in sizes}
    return [size for size in found if size >= min(_LEAST // 2, whole)]


def _usual(work: Work) -> int:
    """Rows that few groups have more of: half more than the mean."""
    return max(_round(_ceil(3 * work.rows, 2 * work.groups)) + ROWS, _LEAST)


def _places(work: Work, tiles: Tiles) -> int:
    """Tiles of a matrix: as many steps there are for each visit."""
    return work.depth // tiles.inner * (work.width // tiles.outer)


def _product_memory(work: Work, tiles: Tiles) -> int:
    """Bytes of all tiles: operands and results twice, and float32 sums.

    Rows that stay for several columns are there once.
    """
    parts, columns = work.depth // tiles.inner, work.width // tiles.outer
    rows = work.inputs * tiles.rows * tiles.inner
    rows *= 1 if parts == 1 < columns else 2
    matrices = 2 * work.matrices * tiles.inner * tiles.outer
    results = work.outputs * tiles.rows * tiles.outer
    block = 8 * work.matrices * min(BLOCK, tiles.rows) * tiles.outer
    sums = 4 * results if parts > 1 else 0
    return 2 * (rows + matrices + 2 * results) + sums + block


def _outer_memory(work: Work, tiles: Tiles) -> int:
    """The same of sums of outer products."""
    rows = tiles.inner + work.matrices * tiles.outer
    results = work.outputs * tiles.inner * tiles.outer
    return 4 * rows * tiles.rows + (4 + 4) * results


def _ceil(size: int, by: int) -> int:
    return -(-size // by)


def _round(size: int) -> int:
    return _ceil(size, ROWS) * ROWS


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
    """Lists the sizes that divide a width into whole tiles, and itself."""
    least = 256 if width % 256 == 0 else 128  # columns of the products' units
    numbers = range(2, width // least + 1)
    return [width, *(width // n for n in numbers if width % (n * least) == 0)]
