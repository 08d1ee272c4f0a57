"""Dropout by seeds of tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.experts import MLP, Lifted
from moe.ops.dropout import (
    dropped,
    drops,
    kept_branches,
    make_seeds,
    seeded,
    with_seeds,
)

KEY = jax.random.key(3)
SEEDS = make_seeds(KEY, jnp.arange(400).reshape(20, 20))


def test_drops_a_share_and_scales_the_rest():
    x = np.full((20, 20, 16), 3.0, np.float32)
    y = np.asarray(dropped(x, 0.25, SEEDS))
    # What is kept is divided by 3/4; 6400 draws: five standard errors.
    np.testing.assert_allclose(np.unique(y), [0, 4], rtol=1e-6)
    error = np.sqrt(0.25 * 0.75 / y.size)
    assert abs(np.mean(y == 0) - 0.25) < 5 * error
    # Rows differ, and so do the places of a layer.
    assert len(np.unique(y.reshape(400, 16), axis=0)) > 350
    assert np.any(y != dropped(x, 0.25, SEEDS, site=1))
    assert dropped(x, 0.25, None) is x
    assert dropped(x, 0.0, SEEDS) is x


def test_a_row_has_the_same_draws_in_any_order():
    x = np.ones((20, 20, 16), np.float32)
    y = np.asarray(dropped(x, 0.5, SEEDS)).reshape(400, 16)
    order = np.random.default_rng(0).permutation(400)
    again = dropped(x.reshape(400, 16), 0.5, SEEDS.reshape(-1)[order])
    np.testing.assert_array_equal(again, y[order])


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_seeds_travel_with_the_tokens(dtype):
    x = jnp.ones((20, 20, 3), dtype)
    wide = with_seeds(x, SEEDS)
    assert wide.dtype == dtype
    rows, sizes, seeds = seeded(lambda *args: args)(wide, 'sizes')
    np.testing.assert_array_equal(rows, x)
    np.testing.assert_array_equal(seeds, SEEDS)
    assert sizes == 'sizes'


def test_examples_lose_a_branch():
    keep = np.asarray(kept_branches(KEY, jnp.float32(0.3), 4000))
    # A standard error of .0072.
    assert abs(1 - keep.mean() - 0.3) < 5 * 0.0073
    assert np.all(kept_branches(KEY, jnp.float32(0.0), 100))


def test_which_modules_have_dropout():
    assert drops(MLP(4, dropout=0.1, parent=None))
    assert not drops(MLP(4, parent=None))
    assert not drops(Lifted(MLP(4, dropout=0.1, parent=None), 2, parent=None))
