"""What drives the devices, and the lines it prints."""

import jax
import numpy as np

from moe.training import host, trainer
from moe.training.evaluation import EvalBatch
from moe.training.workload import Mean
from tests.training.evaluation_test import Sums


def test_one_program_at_a_time(monkeypatch):
    # On virtual devices of the CPU a step has ended when it returns, all of
    # it; elsewhere it goes on while the next is prepared.
    class Result:
        def block_until_ready(self):
            waited.append(self)
            return self

    results = {'loss': Result(), 'state': [Result()]}
    step = lambda *args: results
    waited = []
    assert host.one_at_a_time(step)(1, 2) == results
    assert waited == [results['loss'], *results['state']]
    monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
    assert host.one_at_a_time(step) is step
    monkeypatch.setattr(jax, 'default_backend', lambda: 'cpu')
    monkeypatch.setattr(jax, 'device_count', lambda: 1)
    assert host.one_at_a_time(step) is step


def test_line_of_metrics():
    metrics = {
        'train/loss': np.float32(2.0),
        'moe': {'load': np.array([[1.0, 3.0]])},
    }
    evaluation = [EvalBatch({'loss': Mean(6.0, 4.0)}, {'row': np.ones(3)})]
    values, results = trainer.logged(Sums(), metrics, evaluation)
    assert results == {'loss': 1.5, 'median': 1.0}
    assert values == {
        'train/loss': 2.0,
        'moe/layer_0/load': [1.0, 3.0],
        'eval/loss': 1.5,
        'eval/median': 1.0,
    }
    values, results = trainer.logged(Sums(), metrics, None)
    assert 'eval/loss' not in values
    assert results == {}
