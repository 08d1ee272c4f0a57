"""Grouped products for TPUs, interpreted on CPU, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.ops import tpu
from moe.ops.tpu import calls, tiles
from tests.reference.compare import assert_close
from tests.reference.grouped import grouped_products, whole_numbers

A, E, K, N, M = 144, 4, 256, 128, 2
# Off the blocks of 16 rows; one group empty; 144 - 119 rows past the last.
SIZES = [37, 0, 61, 21]
ROUNDED = 2**-8  # of results in bfloat16


@pytest.fixture(scope='module')
def case():
    """All kernels in tiles of 64 rows, the width K in two: found, wanted."""
    drawn = [whole_numbers(A, E, (K, N), seed) for seed in range(M)]
    x = drawn[0][0]
    ws, dys = [w for _, w, _ in drawn], [dy for *_, dy in drawn]
    # What is past the last group is not read.
    x[sum(SIZES) :] = np.nan
    for dy in dys:
        dy[sum(SIZES) :] = np.inf
    results = [
        grouped_products(x, w, SIZES, dy) for w, dy in zip(ws, dys, strict=True)
    ]
    ys, dxs, dws = zip(*results, strict=True)

    def run(x, ws, dys, sizes):
        return (
            tpu.products(x, ws, sizes, interpret=True),
            tpu.summed_products(dys, ws, sizes, interpret=True),
            tpu.outer_products(x, dys, sizes, interpret=True),
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, '_TILE', 64)
        halves = lambda work: tiles.Tiles(64, work.depth // 2, work.width)
        patch.setattr(calls, 'product_tiles', halves)
        narrow = lambda v: jnp.asarray(v, jnp.bfloat16)
        given = jax.tree.map(narrow, (x, ws, dys))
        found = jax.jit(run)(*given, jnp.array(SIZES))
    return found, (ys, sum(dxs), dws)


@pytest.mark.parametrize(
    'part', [0, 1, 2], ids=['products', 'of rows', 'of matrices']
)
def test_products_and_gradients(case, part):
    found, want = case
    assert_close(found[part], want[part], ROUNDED)
