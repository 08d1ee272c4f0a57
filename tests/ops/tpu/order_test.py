"""Steps of the kernels along the rows: every row once, and little twice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.ops.tpu import order, tiles
from moe.ops.tpu.order import visits_of

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


def found(sizes, empty, align=TILE):
    sizes = jnp.array(sizes)
    visits = visits_of(sizes, 256, TILE, align=align, empty=empty)[:4]
    return [tuple(int(n) for n in one) for one in zip(*visits, strict=True)]


@pytest.mark.parametrize('sizes', SIZES)
@pytest.mark.parametrize('empty', [False, True])
@pytest.mark.parametrize('align', [TILE, tiles.ROWS])
def test_each_row_is_visited_once_in_order(sizes, empty, align):
    visits = found(sizes, empty, align)
    rows = [
        (group, begin + row)
        for group, begin, first, last in visits
        for row in range(first, last)
    ]
    assert all(begin % align == 0 for _, begin, *_ in visits)
    want = np.repeat(np.arange(8), sizes).tolist()
    assert rows == list(zip(want, range(sum(sizes)), strict=True))


@pytest.mark.parametrize('sizes', SIZES)
def test_groups_and_tiles_do_not_come_back(sizes):
    # A tile of results, or a group's sum, is written when it is left.
    visits = found(sizes, True)
    assert visits == sorted(visits, key=lambda visit: visit[0])
    assert {group for group, *_ in visits} == set(range(8))
    rows = [row for _, row, *_ in found(sizes, False)]
    assert rows == sorted(rows)


def steps_of(bands, count, splits, places):
    """(visit, place) of every step of each core that is its own."""
    found = order.order_of(jnp.array(bands), jnp.array(count), splits)
    cores = range(len(found.bounds) - 1)
    steps = jnp.arange(len(bands) * places)
    at = jax.vmap(lambda core, step: order.at(found, core, step, places))
    return [
        [
            (int(visit), int(place))
            for visit, place, busy in zip(
                *at(jnp.full_like(steps, core), steps), strict=True
            )
            if busy
        ]
        for core in cores
    ]


@pytest.mark.parametrize('places', [1, 3])
def test_a_band_is_taken_place_by_place(places):
    # Three bands of two, one and three visits; one more visit is none.
    bands, count = [0, 0, 1, 4, 4, 4, 4], 6
    by_band = [[0, 1], [2], [3, 4, 5]]
    want = [
        (visit, place)
        for visits in by_band
        for place in range(places)
        for visit in visits
    ]
    if places == 1:
        assert want == [(visit, 0) for visit in range(6)]
    one = steps_of(bands, count, jnp.zeros(0, jnp.int32), places)
    assert one == [want]
    # The second core begins with the second band.
    both = steps_of(bands, count, jnp.array([1]), places)
    assert both == [want[: 2 * places], want[2 * places :]]


def executed(visits):
    """Rows that are multiplied, see `moe.ops.tpu.blocks`."""
    align, block = tiles.ALIGN, tiles.ROWS
    return sum(
        -(-(last - first // align * align) // block) * block
        for *_, first, last in visits
        if last > first
    )


@pytest.mark.parametrize('sizes', SIZES)
def test_at_most_one_more_block_a_group(sizes):
    rows = executed(found(sizes, False))
    assert sum(sizes) <= rows <= sum(sizes) + 8 * tiles.ROWS


def test_rows_of_random_loads():
    # 256 rows for each of 128 groups in the mean. Blocks start 3.5 rows before
    # their group and end 7.5 after it, and the ends of 32 tiles add 4: 1.047.
    sizes = np.random.default_rng(0).multinomial(2**15, np.full(128, 1 / 128))
    *visits, _ = visits_of(
        jnp.array(sizes), 2**15, 1024, align=1024, empty=False
    )
    rows = executed(zip(*(one.tolist() for one in visits), strict=True))
    assert 2**15 < rows <= 1.05 * 2**15
