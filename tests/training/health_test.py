"""Warnings: once, when something has been wrong for a while."""

import pytest

from moe.training.health import PATIENCE, Health

# Eight experts, two a token, all alike.
FINE = {
    'moe/layer_1/load': [1.0] * 8,
    'moe/layer_1/load_max': 1.0,
    'moe/layer_1/experts_per_token': 2.0,
    'moe/layer_1/dead_experts': 0.0,
    'moe/layer_1/dropped': 0.05,
    'train/loss': 2.0,
    'train/loss/a': 0.7,
    'train/loss/b': 1.3,
}


def told(lines):
    health = Health()
    return [w for values in lines for w in health.warnings(FINE | values)]


@pytest.mark.parametrize(
    ('values', 'words'),
    [
        ({'moe/layer_1/dead_experts': 2.0}, '2 experts of layer_1 have no'),
        ({'moe/layer_1/dropped': 0.4}, 'layer_1 drops 40%'),
        # An expert with 3.8 times the mean has 3.8 * 2 / 8 of the tokens.
        ({'moe/layer_1/load_max': 3.8}, 'one expert of layer_1 has 95%'),
        ({'train/loss/b': 70.0}, 'the loss of b is 100 times that'),
    ],
    ids=['dead', 'dropped', 'collapsed', 'dominates'],
)
def test_told_once_after_a_while(values, words):
    assert told([values] * (PATIENCE - 1)) == []
    (line,) = told([values] * 3 * PATIENCE)
    assert words in line
    assert 'config.' in line
    assert '\n' not in line
    # Not if it passes, and comes again.
    assert told([*[values] * (PATIENCE - 1), {}] * 3) == []


def test_each_layer_by_itself():
    both = {f'moe/layer_{i}/dead_experts': 1.0 for i in (1, 3)}
    found = told([both] * PATIENCE)
    assert ['layer_1' in line for line in found] == [True, False]


def test_nothing_wrong():
    # Gates that give every expert every row, and a task without a label.
    dense = {'moe/all/load': [1.0] * 4, 'moe/all/load_max': 1.0}
    dense |= {'moe/all/experts_per_token': 4.0}
    assert told([dense] * 2 * PATIENCE) == []
    health = Health()
    for _ in range(2 * PATIENCE):
        assert health.warnings({'train/loss': 1e9, 'train/loss/a': 1e9}) == []
