"""Means as sums and counts, and what a workload need not say."""

import jax.numpy as jnp
import numpy as np

from moe.training.workload import Mean, Workload, masked_means


def test_masked_means():
    loss = jnp.array([[1.0, jnp.nan], [3.0, 5.0]])
    right = jnp.array([[True, True], [False, True]])
    mask = jnp.array([[True, False], [True, True]])
    found = masked_means(mask, loss=loss, accuracy=right)
    assert found == {'loss': Mean(9.0, 3.0), 'accuracy': Mean(2.0, 3.0)}
    found = masked_means(None, accuracy=right)
    assert found == {'accuracy': Mean(3.0, 4.0)}


class Least(Workload):
    """Only what has no default."""

    units_per_step = 1
    final_file = 'end.txt'
    load_data = describe_data = train_batches = eval_batches = None
    init = forward = finalize = None


def test_defaults():
    least = Least()
    assert least.unit == 'tokens'
    assert least.primary_metrics == ('loss',)
    assert least.eval_rows(None, None) == {}
    assert least.eval_metrics({'loss': 1.0}, {}) == {'loss': 1.0}
    assert least.weigh_losses({'loss': 2.0}, {}) == {'loss': 2.0}
    assert not least.balances_gradients
    assert least.step_metrics({}, {}) == {}
    least.parameters = {'w': np.zeros((2, 3))}
    assert least.count_parameters() == (6, 6)
    stats = {'load': np.array([[1.0, 3.0]]), 'entropy': np.array([0.5])}
    assert least.layer_metrics(stats) == {
        'moe/layer_0/load': [1.0, 3.0],
        'moe/layer_0/entropy': 0.5,
    }
