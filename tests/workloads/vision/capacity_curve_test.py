"""Accuracy against capacity: the configs, the rows, and what is refused."""

import dataclasses

import numpy as np
import pytest

from configs import vision
from moe.capacity import CapacityFactor, Dropless
from moe.config import ConfigError
from moe.totals import Derived, Mean
from moe.training.evaluation import EvalBatch
from moe.workloads.vision import capacity_curve
from tests import tiny

SMALL = {'model.moe.num_experts': 4, 'model.num_layers': 2}


def config(variant='vmoe', **changes):
    plain = tiny.changed(vision.get_config(variant), {**SMALL, **changes})
    return tiny.check(plain)


def test_each_factor_comes_with_and_without_priority():
    given = {
        'model.moe.capacity': {
            'name': 'factor',
            'train': 1.05,
            'rule': 'tokens',
            'prioritized': True,
        }
    }
    run = config(**given)
    found = list(capacity_curve.points(run, (0.5, 2.0)))
    assert [(p.factor, p.prioritized) for p in found] == [
        (None, False),
        (0.5, False),
        (0.5, True),
        (2.0, False),
        (2.0, True),
    ]
    # Nothing but the capacity is another.
    for point in found:
        moe = point.config.model.moe
        if point.factor is None:
            assert moe.capacity == Dropless()
        else:
            assert moe.capacity == CapacityFactor(
                train=1.05,
                eval=point.factor,
                minimum=1,
                rule='tokens',
                prioritized=point.prioritized,
            )
        same = dataclasses.replace(moe, capacity=run.model.moe.capacity)
        model = dataclasses.replace(point.config.model, moe=same)
        assert dataclasses.replace(point.config, model=model) == run


def test_a_dropless_run_gets_a_capacity():
    run = config(**{'model.moe.capacity': 'dropless'})
    _, point, _ = capacity_curve.points(run, (0.25,))
    assert point.config.model.moe.capacity.eval == 0.25


@pytest.mark.parametrize(
    ('variant', 'words'),
    [
        ('dense', 'a dense model has no capacity'),
        ('soft', 'for a soft mixture'),
        ('expert_choice', 'expert_choice has a capacity_factor of its own'),
    ],
)
def test_runs_without_a_capacity_that_varies(variant, words):
    curve = {'capacity_curve': {'factors': (0.5,)}}
    with pytest.raises(ConfigError, match=words) as caught:
        config(variant, **curve)
    assert caught.value.field.startswith('config.model.moe')


def share(sums):
    return {'dropped': sums['dropped'] / sums['all']}


def test_rows_by_hand():
    # Of four images 4 are right without drops, then 1 and 2; of the one layer
    # 0, 3 and 2 of eight assignments are dropped.
    right, lost = iter([4, 1, 2]), iter([0, 3, 2])

    def evaluate(workload):
        del workload
        parts = [
            EvalBatch({'accuracy': Mean(part, 2.0)}, {'guess': np.zeros(2)})
            for part in np.array([0.25, 0.75]) * next(right)
        ]
        sums = {'dropped': np.array([next(lost) / 2]), 'all': 4.0}
        stats = Derived(sums, 2.0, share)
        return [part._replace(stats=stats) for part in parts]

    found = capacity_curve.measure(config(), (0.5,), evaluate)
    assert found == {
        'metric': 'accuracy',
        'rows': [
            {'factor': None, 'prioritized': False, 'value': 1, 'dropped': 0},
            {
                'factor': 0.5,
                'prioritized': False,
                'value': 0.25,
                'dropped': 0.375,
            },
            {'factor': 0.5, 'prioritized': True, 'value': 0.5, 'dropped': 0.25},
        ],
    }
    assert capacity_curve.lines({'step': 7, **found}) == [
        'step 7: accuracy by capacity factor',
        '  no limit: nothing dropped 1.0000 (0.0% dropped)',
        '  0.5: tokens in order 0.2500 (37.5% dropped), '
        'batch priority 0.5000 (25.0% dropped)',
    ]
