"""Hidden units of a network: taken, drawn again."""

import flax.linen as nn
import numpy as np
import pytest

from moe.checkpoints import hidden
from moe.config import ConfigError
from moe.experts import EXPERTS, MLP
from tests import tiny
from tests.reference import experts as reference

D, F = 3, 6
NETWORK = {
    'up': tiny.numbers((D, F), 0),
    'gate': tiny.numbers((D, F), 1),
    'down': tiny.numbers((F, D), 2),
    'up_bias': tiny.numbers((F,), 3),
    'gate_bias': tiny.numbers((F,), 4),
    'down_bias': tiny.numbers((D,), 5),
}


def output(params):
    return reference.mlp(tiny.numbers((D,), 6), params, 'swiglu')


def test_the_order_of_hidden_units_is_free():
    order = [4, 2, 5, 0, 1, 3]
    other = {n: hidden.take(n, x, order) for n, x in NETWORK.items()}
    assert not np.array_equal(other['up'], NETWORK['up'])
    np.testing.assert_allclose(output(other), output(NETWORK), rtol=1e-5)


def test_parts_add_up():
    parts = [
        {n: hidden.take(n, x, part) for n, x in NETWORK.items()}
        for part in (slice(2), slice(2, 6))
    ]
    assert parts[1]['up'].shape == (D, 4)
    assert parts[1]['down'].shape == (4, D)
    total = sum(output(p) for p in parts) - NETWORK['down_bias']
    np.testing.assert_allclose(total, output(NETWORK), rtol=1e-5)


def test_experts_in_front():
    stacked = np.stack([NETWORK['down'], 2 * NETWORK['down']])
    found = hidden.take('down', stacked, [5, 0])
    np.testing.assert_array_equal(found, stacked[:, [5, 0]])


def test_redraw():
    wide = tiny.numbers((50, 40), 7, scale=3.0) + 5
    draw = np.random.default_rng(0)
    found = hidden.redraw('up', wide, range(30), draw)
    np.testing.assert_array_equal(found[:, 30:], wide[:, 30:])
    assert not np.any(found[:, :30] == wide[:, :30])
    # The standard error of 1,500 draws is 0.08.
    assert abs(found[:, :30].mean() - wide[:, :30].mean()) < 0.3
    assert abs(found[:, :30].std() - wide[:, :30].std()) < 0.3
    assert hidden.redraw('down_bias', wide, range(3), draw) is wide


def test_other_experts(monkeypatch):
    monkeypatch.setattr(EXPERTS, '_entries', dict(EXPERTS._entries))

    @EXPERTS.register('other')
    class Other(nn.Module):
        """An expert type without known hidden units."""

    hidden.check_known(MLP, 'experts')
    with pytest.raises(ConfigError, match='hidden units are known'):
        hidden.check_known(Other, 'experts')
