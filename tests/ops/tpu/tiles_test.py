"""What tiles multiply and move, by arithmetic."""

import pytest

from moe.ops.tpu import tiles


def test_products_that_are_executed():
    # 256 rows, and a block of 16 more for each of 8 groups.
    work = tiles.Work(256, 8, 3, 5)
    assert tiles.executed(work) == 2 * (256 + 8 * 16) * 3 * 5
    twice = tiles.Work(256, 8, 3, 5, 1, 2, 2)
    assert tiles.executed(twice) == 2 * tiles.executed(work)


@pytest.fixture
def one_core(monkeypatch):
    monkeypatch.setattr(tiles, 'chip', lambda: (64 * 2**20, 1))


# 1,024 rows of 256 bytes for 4 groups, with matrices of [128, 512].
WORK = tiles.Work(1024, 4, 128, 512)
X, W, Y = 1024 * 256, 4 * 128 * 512 * 2, 1024 * 512 * 2


def test_traffic_of_products(one_core):
    # Two tiles of 512 rows, which stay for two columns: matrices of at most
    # one group more than there are.
    staying = tiles.Tiles(512, 128, 256)
    assert tiles.product_bytes(WORK, staying) == X + W * 5 / 4 + Y
    # Two matrices of a group, and two results, but the rows are read once.
    both = tiles.Work(1024, 4, 128, 512, 1, 2, 2)
    assert tiles.product_bytes(both, staying) == X + 2 * (W * 5 / 4 + Y)
    # All of a matrix in a tile: everything once.
    assert tiles.product_bytes(WORK, tiles.Tiles(512, 128, 512)) == X + W + Y
    # Sums that stay: rows once for each of two columns.
    sums = tiles.Tiles(512, 64, 256)
    assert tiles.product_bytes(WORK, sums) == 2 * X + W * 5 / 4 + Y


def test_traffic_of_products_on_two_cores(monkeypatch):
    monkeypatch.setattr(tiles, 'chip', lambda: (64 * 2**20, 2))
    # A group may have rows of both cores.
    whole = tiles.Tiles(256, 128, 512)
    assert tiles.product_bytes(WORK, whole) == X + W * 5 / 4 + Y


def test_traffic_of_outer_products(one_core):
    # A block of 16 rows more for each of 4 groups.
    x, dy = X * 1088 / 1024, Y * 1088 / 1024
    # Groups in one piece each: everything once.
    for there in ((512, 128, 256), (512, 64, 512)):
        assert tiles.outer_bytes(WORK, tiles.Tiles(*there)) == x + dy + W
    # Tiles of both widths: dy for each of two rows of tiles.
    both = tiles.Tiles(512, 64, 256)
    assert tiles.outer_bytes(WORK, both) == x + 2 * dy + W
    # Groups in several pieces: rows for each of two columns.
    pieces = tiles.Tiles(256, 128, 256)
    assert tiles.outer_bytes(WORK, pieces) == 2 * x + dy + W


# Experts, experts a token, D, F, and how much more than once the kernels of a
# layer read and write, forward and backward, with 4,096 tokens on a v5p.
MODELS = {
    'Mixtral 8x7B': (8, 2, 4096, 14336, 1.21),
    'OLMoE': (64, 8, 2048, 1024, 1.07),
    'Qwen3 30B-A3B': (128, 8, 2048, 768, 1.05),
    'DeepSeek-V3': (256, 8, 7168, 2048, 1.05),
}


@pytest.mark.parametrize('name', MODELS)
def test_traffic_of_models(monkeypatch, name):
    experts, count, d, f, bound = MODELS[name]
    monkeypatch.setattr(tiles, 'chip', lambda: (64 * 2**20, 2))
    rows = 4096 * count
    work = lambda depth, width, *counts: tiles.Work(
        rows, experts, depth, width, *counts
    )
    # Up and gate; down; the gradients of hidden rows, and of rows by both.
    there = work(d, f, 1, 2, 2), work(f, d), work(d, f), work(f, d, 2, 2, 1)
    moved = sum(
        tiles.product_bytes(one, tiles.product_tiles(one)) for one in there
    )
    for one in there[:2]:  # the gradients of three matrices
        moved += tiles.outer_bytes(one, tiles.outer_tiles(one))
    # Three matrices in both directions, and their gradients; of each of the six
    # kernels the arrays of width D, and those of width F.
    once = 2 * (
        9 * experts * d * f + rows * (6 * d + (2 + 1 + 1 + 2 + 2 + 1) * f)
    )
    assert once <= moved <= bound * once


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
