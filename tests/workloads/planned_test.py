"""The planning of each workload."""

import math

import jax

from moe.workloads.lm.planning import LanguageModelPlanning
from moe.workloads.planned import planning_of
from moe.workloads.planning import Planning
from tests import tiny
from tests.workloads.multitask.workload_test import plain


def test_a_language_model_is_planned_by_its_config():
    assert type(planning_of(tiny.parsed())) is LanguageModelPlanning


def test_any_workload_is_planned_by_its_data_and_its_step():
    config = tiny.check(plain('mmoe'))
    found = planning_of(config)
    assert type(found) is Planning
    data = found.workload.load_data()
    batch = next(found.workload.train_batches(data, 0, 1))
    assert jax.tree.map(lambda s: (s.shape, s.dtype), found.batch) == (
        jax.tree.map(lambda x: (x.shape, x.dtype), batch)
    )
    # Forward and backward, without the gradient by the inputs.
    total, _ = found.workload.count_parameters()
    rows = config.data.batch_size
    assert 2 * total * rows < found.useful_flops() <= 6 * total * rows
    assert found.describe() == {}
    assert found.mixtures == 0
    assert found.least_communicated({}) == 0
    assert found.rows_of_experts({}) == math.inf
