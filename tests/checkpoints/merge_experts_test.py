"""Experts that are averaged."""

import numpy as np
import pytest

from moe.checkpoints.__main__ import main
from moe.checkpoints.merge_experts import Groups, Merge, groups, matched
from moe.checkpoints.split_experts import Split
from tests import tiny
from tests.checkpoints import memory, operations


def test_groups():
    load = np.array([5.0, 1, 3, 0, 9])
    # Logits of three tokens: 1 is like 4 but twice as large, 3 like 0.
    logits = np.array([[1.0, 0, 2, 1, 0], [0, 2, 1, 0, 1], [3, -2, 0, 4, -1]])
    found = groups(load, logits.T @ logits, 2)
    assert found.dominant.tolist() == [0, 4]
    cosine = lambda a, b: a @ b / np.sqrt((a @ a) * (b @ b))
    third = [cosine(logits[:, 2], logits[:, d]) for d in (0, 4)]
    assert found.target.tolist() == [0, 1, int(np.argmax(third)), 0, 1]
    total = np.bincount(found.target, load)[found.target]
    np.testing.assert_allclose(found.weight, load / total)
    # Without a token all count alike.
    alone = groups(np.zeros(5), logits.T @ logits, 2)
    assert alone.dominant.tolist() == [0, 1]
    np.testing.assert_allclose(np.bincount(alone.target, alone.weight), 1)


def test_weighted_averages():
    group = Groups(
        np.array([0, 1, 0]), np.array([0.25, 1.0, 0.75]), np.array([0, 1])
    )
    merge = Merge({0: group}, None)
    array = tiny.numbers((3, 4, 5), 0)
    found = merge.experts(0, 'up', array)
    np.testing.assert_allclose(
        found[0], 0.25 * array[0] + 0.75 * array[2], rtol=1e-6
    )
    np.testing.assert_array_equal(found[1], array[1])
    columns = tiny.numbers((7, 3), 1)
    np.testing.assert_allclose(
        merge.gate(0, columns)[:, 0],
        0.25 * columns[:, 0] + 0.75 * columns[:, 2],
        rtol=1e-6,
    )


def test_matching_finds_an_order():
    shapes = {'up': (6, 9), 'gate': (6, 9), 'down': (9, 6)}
    one = {n: tiny.numbers(s, i) for i, (n, s) in enumerate(shapes.items())}
    order = np.random.default_rng(0).permutation(9)
    other = {
        name: array[order] if name == 'down' else array[:, order]
        for name, array in one.items()
    }
    np.testing.assert_array_equal(order[matched(one, other)], np.arange(9))


@pytest.mark.parametrize('shuffled', [False, True])
def test_equal_experts_become_one(shuffled):
    # Each expert is made two, which a merge makes one again: the same logits,
    # of gates that are summed, whatever the order of their hidden units.
    config = tiny.parsed({'model.moe.experts.use_bias': True})
    params = memory.parameters(config.model)
    twice = operations.operated(config, params, Split(2, True, 0.5))
    if shuffled:
        order = np.random.default_rng(0).permutation(16)
        arrays = operations.experts(twice)
        for name in ('up', 'gate', 'up_bias', 'gate_bias'):
            arrays[name][:, 1::2] = arrays[name][:, 1::2][..., order]
        arrays['down'][:, 1::2] = arrays['down'][:, 1::2][:, :, order]
    changes = {'model.moe.num_experts': 8, 'model.moe.router.k': 4}
    wide = tiny.parsed({'model.moe.experts.use_bias': True, **changes})
    pairs = Groups(
        np.arange(8) // 2, np.tile([0.25, 0.75], 4), np.arange(0, 8, 2)
    )
    source = memory.source(wide, twice)
    merge = Merge({0: pairs, 1: pairs}, source)
    found = operations.operated(wide, twice, merge)
    np.testing.assert_allclose(
        operations.logits(config.model, found),
        operations.logits(config.model, params),
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ('flags', 'told'),
    [
        ([], '--to = None: must be at most num_experts (4)'),
        (['--to=5'], '--to = 5: must be at most num_experts (4)'),
        (['--to=1'], 'k = 2: must be at most num_experts (1)'),
    ],
    ids=str,
)
def test_mistakes(saved_run, tmp_path, capsys, flags, told):
    given = ['', 'merge_experts', str(saved_run)]
    assert main([*given, f'--workdir={tmp_path / "new"}', *flags]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count('\n') == 1
    assert not (tmp_path / 'new').exists()
