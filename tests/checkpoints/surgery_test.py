"""Which parts of which leaves an operation reaches."""

import types

import numpy as np
import pytest

from moe.checkpoints.surgery import Selection, Surgery, opened
from moe.config import ConfigError
from moe.training.folder import write_plain_config
from tests import tiny
from tests.checkpoints import memory
from tests.training import damage

# Two mixtures among four layers, with all that stands beside experts.
CHANGES = {
    'model.num_layers': 4,
    'model.moe_every': 2,
    'model.moe.router': {'name': 'sigmoid', 'k': 2},
    'model.moe.shared': {'network': {'name': 'mlp', 'hidden': 8}},
    'model.moe.zero_computation': {'zero': 1, 'constant': 1},
}
KEPT = {1: np.array([2, 0]), 3: np.array([3, 1])}


def test_every_leaf():
    config = tiny.parsed(CHANGES)
    params = memory.parameters(config.model)
    bias = tiny.numbers((2, 6), 1)
    block = {'block_1': {'moe': {'mixture': {'bias': bias}}}}
    state = {'router_state': {'stack': {'layers': block}}}
    source = memory.source(config, params, state)
    operation = Selection(KEPT)
    make = Surgery(source, operation).make
    changed = {}
    for name in source.leaves:
        old, new = source.read(name), make(name)
        if old.shape != new.shape or not np.array_equal(old, new):
            changed[name.rpartition('mixture/')[2]] = old, new
    # Of six columns of the router the last two are of other experts.
    columns = [[2, 0, 4, 5], [3, 1, 4, 5]]
    axes = {'router': -1, 'bias': -1}
    assert set(changed) == {
        *axes,
        'experts/up',
        'experts/gate',
        'experts/down',
    }
    for name, (old, new) in changed.items():
        for i, layer in enumerate((1, 3)):
            if name in axes:
                want = old[i][..., columns[i]]
            else:
                want = old[i][KEPT[layer]]
            np.testing.assert_array_equal(new[i], want)


def test_experts_of_any_module():
    # Lifted experts have their axis in front; it is declared.
    config = tiny.parsed()
    source = memory.source(config, memory.parameters(config.model))
    surgery = Surgery(source, Selection({0: [1], 1: [1]}))
    (name,) = (n for n in source.leaves if n.endswith('experts/up'))
    surgery._axes[name] = (None, None, 'expert', None)
    found = surgery.make(name)
    np.testing.assert_array_equal(found, source.read(name)[:, :, [1]])
    surgery._axes[name] = (None, None, None, None)
    with pytest.raises(ConfigError, match='have an axis of experts'):
        surgery.make(name)


def test_a_dense_run(tmp_path):
    damage.save(tmp_path, 2)
    write_plain_config(tmp_path, tiny.plain({'model.moe_every': 0}))
    values = types.SimpleNamespace(step=None, plugins=())
    with pytest.raises(ConfigError, match='a run with mixtures'):
        opened(tmp_path, values)
