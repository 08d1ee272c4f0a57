"""Experts in another order: the same logits."""

import numpy as np
import pytest

from moe.checkpoints.__main__ import main
from moe.checkpoints.permute_experts import is_exact, spread
from moe.checkpoints.surgery import Selection
from tests import tiny
from tests.checkpoints import memory, operations


def test_logits_stay():
    config = tiny.parsed({'model.moe.experts.use_bias': True})
    params = memory.parameters(config.model)
    order = {0: np.array([2, 0, 3, 1]), 1: np.array([1, 3, 2, 0])}
    found = operations.operated(config, params, Selection(order))
    old, new = map(operations.experts, (params, found))
    assert not np.array_equal(old['up'], new['up'])
    np.testing.assert_allclose(
        operations.logits(config.model, found),
        operations.logits(config.model, params),
        rtol=1e-9,
    )


def test_spread():
    load = np.array([9.0, 1, 8, 2, 7, 3, 0, 4])
    # The busiest to the device of least load that has room: 9; 8; then 7 to
    # that of 8, 4 to that of 9, and so on; each has 17.
    found = spread(load, 2)
    assert found.tolist() == [0, 7, 5, 1, 2, 4, 3, 6]
    assert load[found].reshape(2, 4).sum(axis=1).tolist() == [17.0, 17.0]
    assert spread(load, 1).tolist() == [0, 2, 4, 7, 5, 3, 1, 6]


@pytest.mark.slow
def test_groups_of_experts_stay_together():
    router = {'name': 'group_limited', 'k': 2, 'expert_groups': 2}
    router['chosen_groups'] = 1
    moe = tiny.model({'moe.router': router}).moe
    assert is_exact(moe, np.array([1, 0, 3, 2]))
    assert not is_exact(moe, np.array([0, 2, 1, 3]))


@pytest.mark.parametrize(
    ('flags', 'told'),
    [
        (['--order=0,1,2'], "--order = '0,1,2': must be 'load', 'spread', or"),
        (['--order=a'], 'or 0 to 3 in any order'),
        (['--devices=3'], '--devices = 3: must be a divisor of num_experts'),
    ],
    ids=str,
)
def test_mistakes(saved_run, tmp_path, capsys, flags, told):
    given = ['', 'permute_experts', str(saved_run)]
    assert main([*given, f'--workdir={tmp_path / "new"}', *flags]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count('\n') == 1
    assert not (tmp_path / 'new').exists()
