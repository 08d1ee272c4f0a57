"""Experts that are left out, by what they do."""

import numpy as np
import pytest

from moe.checkpoints.__main__ import main
from moe.checkpoints.measured import Measured
from moe.checkpoints.prune_experts import kept_experts
from moe.checkpoints.surgery import Selection
from tests import tiny
from tests.checkpoints import memory, operations
from tests.reference import model as reference


def test_kept():
    load = np.array([[4.0, 9, 0, 2, 2]])
    output = np.array([[8.0, 9, 0, 6, 4]])
    found = Measured(load, -load, output, np.zeros((1, 5, 5)))
    assert kept_experts(found, 'load', 3).tolist() == [[0, 1, 3]]
    assert kept_experts(found, 'gate_mass', 2).tolist() == [[2, 3]]
    # 2, 1, 0, 3, 2.
    assert kept_experts(found, 'reap', 2).tolist() == [[0, 3]]


def test_experts_without_a_token_change_nothing():
    config = tiny.parsed({'model.moe.num_experts': 24})
    params = memory.parameters(config.model)
    double = memory.double(params)
    options = tiny.oracle_options(config.model)
    x = double['embedding'][operations.TOKENS] * 4.0  # sqrt(d_model)
    _, mixtures = reference.stack(x, double['stack'], options)
    load = np.stack(
        [np.bincount(out.chosen.ravel(), minlength=24) for out in mixtures]
    )
    keep = int((load > 0).sum(axis=1).max())
    assert keep < 24
    kept = kept_experts(Measured(load, load, load, load), 'load', keep)
    found = operations.operated(
        config, params, Selection({0: kept[0], 1: kept[1]})
    )
    want = operations.logits(config.model, params)
    np.testing.assert_allclose(
        operations.logits(config.model, found), want, rtol=1e-9
    )
    # Without one that has tokens they are others.
    busy = np.delete(np.arange(24), load[0].argmax())
    other = {0: busy, 1: np.arange(23)}
    found = operations.operated(config, params, Selection(other))
    assert np.abs(operations.logits(config.model, found) - want).max() > 1e-3


@pytest.mark.parametrize(
    ('flags', 'told'),
    [
        ([], '--keep = None: must be at most num_experts (4)'),
        (['--keep=5'], '--keep = 5: must be at most num_experts (4)'),
        (['--keep=1'], 'k = 2: must be at most num_experts (1)'),
        (['--keep=2', '--by=size'], "by = 'size'"),
        (['--keep=2', '--config.model.mtp.depth=1'], 'experts of its own'),
        (['--keep=3', '--config.mesh.expert=2'], 'mesh.expert = 2: must be'),
    ],
    ids=str,
)
def test_mistakes(saved_run, tmp_path, capsys, flags, told):
    given = ['', 'prune_experts', str(saved_run)]
    assert main([*given, f'--workdir={tmp_path / "new"}', *flags]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count('\n') == 1
    assert not (tmp_path / 'new').exists()
