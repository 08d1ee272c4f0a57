"""Grouped products for TPUs, simulated on CPU, against float64."""

import jax
import pytest

from moe.ops import tpu
from moe.ops.tpu import row_products, tiles
from tests.ops.tpu.kernels import ROUNDED, SIMULATED, M, N, case
from tests.reference.compare import assert_close


@pytest.mark.slow
def test_products_and_gradient_of_rows(monkeypatch):
    # Rows that stay for two columns of tiles, and sums that stay for two parts
    # of the width; two tiles of rows for one core and one for the other.
    def chosen(work):
        return tiles.Tiles(48, *((256, 128) if work.outputs == M else (128, N)))

    def run(x, ws, dys, sizes):
        return (
            tpu.products(x, ws, sizes, interpret=SIMULATED),
            tpu.summed_products(dys, ws, sizes, interpret=SIMULATED),
        )

    monkeypatch.setattr(row_products, 'product_tiles', chosen)
    *given, (ys, dx, _) = case()
    found_ys, found_dx = jax.jit(run)(*given)
    assert_close(found_ys, ys, ROUNDED)
    assert_close(found_dx, dx, ROUNDED)
