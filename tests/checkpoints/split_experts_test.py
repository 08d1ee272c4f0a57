"""Experts split, or doubled, and twice as many a token: the same logits."""

import functools

import numpy as np
import pytest

from moe.checkpoints.__main__ import main
from moe.checkpoints.split_experts import Split, gate_ratio
from moe.routing import ROUTERS
from tests import tiny
from tests.checkpoints import memory, operations

BIASED = {'model.moe.experts.use_bias': True}


@pytest.mark.parametrize('duplicate', [False, True])
@pytest.mark.parametrize('renormalize', [False, True])
def test_logits_stay(duplicate, renormalize):
    changes = {'model.moe.router.renormalize': renormalize, **BIASED}
    old = tiny.parsed(changes)
    changes |= {'model.moe.router.k': 4, 'model.moe.num_experts': 8}
    if not duplicate:
        changes['model.moe.experts.hidden'] = 8
    new = tiny.parsed(changes)
    ratio = gate_ratio(old.model.moe.router, new.model.moe.router, 4, 2)
    assert ratio == pytest.approx(0.5)
    params = memory.parameters(old.model)
    found = operations.operated(old, params, Split(2, duplicate, ratio))
    assert operations.experts(found)['up'].shape[1] == 8
    np.testing.assert_allclose(
        operations.logits(new.model, found),
        operations.logits(old.model, params),
        atol=1e-6,
    )


def test_gates_of_parts():
    # Sigmoid scores that are not renormalised do not share anything.
    make = lambda name, **more: functools.partial(ROUTERS[name], **more)
    one, two = (make('sigmoid', k=k, renormalize=False) for k in (1, 2))
    assert gate_ratio(one, two, 4, 2) == pytest.approx(1.0)
    # One choice of top_k is a probability; two are renormalised.
    one, two = (make('top_k', k=k) for k in (1, 2))
    assert gate_ratio(one, two, 4, 2) is None
    # Not all parts of an expert are taken.
    assert gate_ratio(make('top_k', k=2), make('top_k', k=3), 4, 2) is None


@pytest.mark.parametrize(
    ('flags', 'told'),
    [
        (['--parts=3'], '--parts = 3: must be a divisor of the 16 hidden'),
        (['--config.model.moe.router.k=3'], 'a token takes all parts of an'),
        (['--parts=1'], "parts = '1'"),
    ],
    ids=str,
)
def test_mistakes(saved_run, tmp_path, capsys, flags, told):
    given = ['', 'split_experts', str(saved_run)]
    assert main([*given, f'--workdir={tmp_path / "new"}', *flags]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count('\n') == 1
    assert not (tmp_path / 'new').exists()
