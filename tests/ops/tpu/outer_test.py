"""Sums of outer products for TPUs, simulated on CPU, against float64."""

import functools

import jax
import pytest

from moe.ops import tpu
from moe.ops.tpu import outer, tiles
from tests.ops.tpu.kernels import ROUNDED, SIMULATED, case
from tests.reference.compare import assert_close


@pytest.mark.slow
def test_gradient_of_matrices(monkeypatch):
    # Groups in one piece, whose rows of `dys` stay for two tiles on each of
    # two cores, and in several.
    chosen = tiles.Tiles(32, 128, 128)
    monkeypatch.setattr(outer, 'outer_tiles', lambda _: chosen)
    x, _, dys, sizes, (*_, dws) = case()
    run = functools.partial(tpu.outer_products, interpret=SIMULATED)
    assert_close(jax.jit(run)(x, dys, sizes), dws, ROUNDED)
