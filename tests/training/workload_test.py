"""Means as sums and counts, and what a workload need not say."""

import jax
import jax.numpy as jnp
import numpy as np

from moe.training.workload import Mean, Workload, masked_means


def test_means_are_over_the_count():
    assert Mean(jnp.array(6.0), jnp.array(4.0)).value == 1.5


def test_nothing_valid_is_zero():
    assert Mean(jnp.array(0.0), jnp.array(0.0)).value == 0


def test_means_add_up_over_batches():
    one, two = Mean(6.0, 4.0), Mean(1.0, 2.0)
    assert jax.tree.map(jnp.add, one, two) == Mean(7.0, 6.0)


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
    assert least.step_metrics({}, {}) == {}
    least.parameters = {'w': np.zeros((2, 3))}
    assert least.count_parameters() == (6, 6)
    stats = {'load': np.array([[1.0, 3.0]]), 'entropy': np.array([0.5])}
    assert least.layer_metrics(stats) == {
        'moe/layer_0/load': [1.0, 3.0],
        'moe/layer_0/entropy': 0.5,
    }


def test_gradient_is_of_the_objective():
    objective = lambda w, state, batch, key: (w**2 * batch, state)
    (value, out), grad = Least().value_and_grad(objective)(3.0, 's', 2.0, None)
    assert (value, out, grad) == (18.0, 's', 12.0)
