"""Steps of the kernels along the rows: every row once, and little twice."""

import jax.numpy as jnp
import numpy as np
import pytest

from moe.ops.tpu import tiles
from moe.ops.tpu.visits import visits_of

TILE = 64
# Rows of 8 groups, in arrays of 256: balanced, off the blocks, some empty, one
# with all, and rows past the last group.
SIZES = [
    [32] * 8,
    [33, 31, 40, 24, 30, 34, 63, 1],
    [0, 100, 0, 0, 56, 100, 0, 0],
    [0, 0, 0, 256, 0, 0, 0, 0],
    [5, 0, 20, 3, 0, 64, 0, 17],
    [0] * 8,
]


def found(sizes, empty):
    visits = visits_of(jnp.array(sizes), 256, TILE, empty=empty)
    return [tuple(int(n) for n in one) for one in zip(*visits, strict=True)]


@pytest.mark.parametrize('sizes', SIZES)
@pytest.mark.parametrize('empty', [False, True])
def test_each_row_is_visited_once_in_order(sizes, empty):
    rows = [
        (group, tile * TILE + row)
        for group, tile, first, last in found(sizes, empty)
        for row in range(first, last)
    ]
    want = np.repeat(np.arange(8), sizes).tolist()
    assert rows == list(zip(want, range(sum(sizes)), strict=True))


@pytest.mark.parametrize('sizes', SIZES)
def test_groups_and_tiles_do_not_come_back(sizes):
    # A tile of results, or a group's sum, is written when it is left.
    visits = found(sizes, True)
    assert visits == sorted(visits, key=lambda visit: visit[0])
    assert {group for group, *_ in visits} == set(range(8))
    tiles_of_rows = [tile for _, tile, *_ in found(sizes, False)]
    assert tiles_of_rows == sorted(tiles_of_rows)


@pytest.mark.parametrize('sizes', SIZES)
def test_at_most_one_more_block_a_group(sizes):
    block = tiles.ROWS
    executed = sum(
        -(-last // block) * block - first // block * block
        for *_, first, last in found(sizes, False)
        if last > first
    )
    assert sum(sizes) <= executed <= sum(sizes) + 8 * block
