"""What tiles multiply and move, by arithmetic."""

import pytest

from moe.ops.tpu import tiles


def test_products_that_are_executed():
    # 256 rows, and a block of 16 more for each of 8 groups.
    work = tiles.Work(256, 8, 3, 5)
    assert tiles.executed(work) == 2 * (256 + 8 * 16) * 3 * 5
    twice = tiles.Work(256, 8, 3, 5, 1, 2, 2)
    assert tiles.executed(twice) == 2 * tiles.executed(work)


def test_traffic_of_tiles():
    # 1024 rows of 256 bytes for 4 groups, matrices of [128, 512], in tiles of
    # 512 rows and 256 columns: rows twice, matrices and results once.
    work = tiles.Work(1024, 4, 128, 512)
    once = tiles.Tiles(512, 128, 256)
    want = 2 * 1024 * 256 + 4 * 128 * 512 * 2 + 1024 * 512 * 2
    assert tiles.product_bytes(work, once) == want
    # Two matrices of a group, and two results, but the rows are read once.
    both = tiles.Work(1024, 4, 128, 512, 1, 2, 2)
    want += 4 * 128 * 512 * 2 + 1024 * 512 * 2
    assert tiles.product_bytes(both, once) == want
    # With two tiles along the sum a matrix is read for each of 2 + 4 visits.
    halves = tiles.Tiles(512, 64, 512)
    want = 1024 * 256 + 6 * 128 * 512 * 2 + 1024 * 512 * 2
    assert tiles.product_bytes(work, halves) == want
    # Outer products: rows of x for 2 columns, of dy for 1, and the sums.
    want = 2 * 1024 * 256 + 1024 * 1024 + 4 * 128 * 512 * 2
    assert tiles.outer_bytes(work, once) == want


@pytest.mark.parametrize(
    ('depth', 'width'), [(4096, 14336), (14336, 4096), (7168, 2048), (96, 40)]
)
def test_tiles_divide_the_widths(depth, width):
    for find in (tiles.product_tiles, tiles.outer_tiles):
        found = find(tiles.Work(8192, 8, depth, width, 1, 2, 2))
        assert depth % found.inner == 0
        assert width % found.outer == 0
        assert found.inner in (depth, found.inner // 128 * 128)
    assert tiles.fits(8192, (8, depth, width), 2)


def test_what_does_not_fit():
    assert not tiles.fits(0, (8, 128, 128), 1)
    assert not tiles.fits(8192, (8, 100_001, 4096), 1)  # one tile of 400 MB
