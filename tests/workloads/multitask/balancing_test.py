"""Losses of several tasks made one: the papers' arithmetic, by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.config import ConfigError
from moe.workloads.multitask.balancing import (
    TASK_BALANCING,
    Balancing,
    GradNormState,
    gradnorm,
    gram,
    pcgrad,
    uncertainty,
)
from moe.workloads.registry import read_config


def test_uncertainty_by_hand():
    # Variance 4 of a regression: 8 / (2 * 4) + log(4) / 2 = 1 + log 2;
    # variance 1/2 of a classification: 3 / .5 + log(.5) / 2 = 6 - log(2) / 2.
    terms = uncertainty(
        jnp.array([8.0, 3.0]),
        jnp.log(jnp.array([4.0, 0.5])),
        jnp.array([True, False]),
    )
    log2 = np.log(2)
    np.testing.assert_allclose(terms, [1 + log2, 6 - log2 / 2], rtol=1e-6)


def test_uncertainty_is_least_at_the_loss_itself():
    # d/ds (e^-s L + s/2) = 0 at e^s = 2 L; of a squared error at e^s = L.
    losses, regression = jnp.array([8.0, 3.0]), jnp.array([True, False])
    best = jnp.log(jnp.array([8.0, 6.0]))
    slope = jax.grad(lambda s: jnp.sum(uncertainty(losses, s, regression)))
    np.testing.assert_allclose(slope(best), [0, 0], atol=1e-6)
    assert np.all(slope(best + 0.1) > 0)
    assert np.all(slope(best - 0.1) < 0)


def test_gradnorm_by_hand():
    # The first step notes the losses: ratios 1, pace 1, target the mean of
    # G = (1 * 2, 1 * 6) = 4. Weights 1 + .1 * 2 and 1 - .1 * 6, that is 1.2
    # and .4, scaled to 1.5 and .5.
    start = GradNormState(jnp.ones(2), jnp.zeros(2))
    losses, norms = jnp.array([10.0, 5.0]), jnp.array([2.0, 6.0])
    state = gradnorm(start, losses, norms, alpha=1.5, rate=0.1)
    np.testing.assert_allclose(state.weights, [1.5, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(state.initial, [10, 5])
    # Then task 0 is at .9 of its loss, task 1 at .3: pace 1.5 and .5; at alpha
    # 1 the targets are 1.5 * 3 and .5 * 3, where G = (3, 3) is below and
    # above: 1.5 + .2 and .5 - .6, at least .001, scaled by 2 / 1.701.
    state = gradnorm(state, jnp.array([9.0, 1.5]), norms, alpha=1.0, rate=0.1)
    desired = np.array([1.7, 0.001]) * 2 / 1.701
    np.testing.assert_allclose(state.weights, desired, rtol=1e-5)
    np.testing.assert_array_equal(state.initial, [10, 5])


def test_gradnorm_settles_where_norms_are_equal():
    # Losses that all fall alike: w_i * norm_i becomes the same, 3 : 1.
    state = GradNormState(jnp.ones(2), jnp.zeros(2))
    losses, norms = jnp.array([1.0, 1.0]), jnp.array([1.0, 3.0])
    for _ in range(2000):
        state = gradnorm(state, losses, norms, alpha=1.5, rate=1e-3)
    np.testing.assert_allclose(state.weights, [1.5, 0.5], atol=0.01)


def test_gradnorm_leaves_out_a_task_without_a_label():
    # Losses and norms [1, 0]: the only task there is at its own mean.
    start = GradNormState(jnp.ones(2), jnp.zeros(2))
    step = lambda state, losses, norms: gradnorm(
        state, jnp.array(losses), jnp.array(norms), alpha=1.5, rate=0.1
    )
    state = step(start, [1.0, 0.0], [1.0, 0.0])
    np.testing.assert_array_equal(state.weights, [1, 1])
    np.testing.assert_array_equal(state.initial, [1, 0])
    # Its first loss is that of the first batch with a label.
    state = step(state, [0.5, 4.0], [1.0, 1.0])
    np.testing.assert_array_equal(state.initial, [1, 4])
    # Of three tasks with the third absent, the others move as two do, and keep
    # their sum.
    two = step(start, [10.0, 5.0], [2.0, 6.0])
    three = GradNormState(jnp.ones(3), jnp.zeros(3))
    three = step(three, [10.0, 5.0, 0.0], [2.0, 6.0, 0.0])
    np.testing.assert_allclose(three.weights, [*two.weights, 1], rtol=1e-6)


def test_pcgrad_of_a_task_without_a_gradient():
    # The other's gradient is as it was, whatever the order.
    found = pcgrad(jnp.array([[4.0, 0.0], [0.0, 0.0]]), jax.random.key(0))
    np.testing.assert_array_equal(found, [1, 1])


def test_uncertainty_of_a_rare_task_settles_at_its_own_loss():
    # Losses .5 of cross-entropies: d/ds (e^-s / 2 + s / 2) = 0 at s = 0, weight
    # 1; b has labels in one batch of ten, and no term in the others.
    balance = TASK_BALANCING['uncertainty']()
    squared = jnp.zeros(2, bool)

    def objective(s, here):
        terms = balance.terms(jnp.full(2, 0.5), {'log_variance': s}, squared)
        return jnp.sum(jnp.where(here, terms, 0.0))

    slope, s = jax.jit(jax.grad(objective)), jnp.array([0.5, 0.5])
    for i in range(600):
        s -= 0.2 * slope(s, jnp.array([True, i % 10 == 0]))
    np.testing.assert_allclose(jnp.exp(-s), [1, 1], atol=0.01)


def projected(gradients, orders):
    """Algorithm 1 of the paper, written out over vectors."""
    total = np.zeros(gradients.shape[1])
    for i, order in enumerate(orders):
        g = gradients[i].copy()
        for j in order:
            if j != i and g @ gradients[j] < 0:
                other = gradients[j]
                g -= (g @ other) / (other @ other) * other
        total += g
    return total


def test_pcgrad_of_two_by_hand():
    # (1, 0) and (-1, 1): the product is -1. (1, 0) + 1/2 (-1, 1) = (.5, .5),
    # (-1, 1) + (1, 0) = (0, 1): together (.5, 1.5).
    gradients = np.array([[1.0, 0.0], [-1.0, 1.0]])
    weights = pcgrad(gram({'a': jnp.array(gradients)}), jax.random.key(0))
    np.testing.assert_allclose(weights @ gradients, [0.5, 1.5], rtol=1e-6)


@pytest.mark.parametrize('seed', range(5))
def test_pcgrad_equals_the_projections(seed):
    draw = np.random.default_rng(seed)
    gradients = draw.standard_normal((4, 3))
    tree = {
        'a': jnp.array(gradients[:, :1], jnp.float32),
        'b': jnp.array(gradients[:, 1:].reshape(4, 2, 1), jnp.float32),
    }
    np.testing.assert_allclose(gram(tree), gradients @ gradients.T, atol=1e-5)
    key = jax.random.key(seed)
    orders = [
        np.asarray(jax.random.permutation(k, 4))
        for k in jax.random.split(key, 4)
    ]
    desired = projected(gradients, orders)
    actual = np.asarray(pcgrad(gram(tree), key)) @ gradients
    np.testing.assert_allclose(actual, desired, atol=1e-4)


def test_pcgrad_leaves_agreeing_gradients_alone():
    gradients = jnp.array([[1.0, 0.5], [0.2, 1.0], [3.0, 0.0]])
    weights = pcgrad(gram([gradients]), jax.random.key(1))
    np.testing.assert_array_equal(weights, [1, 1, 1])
    # A task without gradient, such as one without labels in a batch.
    weights = pcgrad(gram([gradients.at[1].set(0.0)]), jax.random.key(1))
    np.testing.assert_array_equal(weights, [1, 1, 1])


def test_registered_balancing():
    # What each learns, keeps and tells, of two tasks with losses 4 and 1.
    losses, squared = jnp.array([4.0, 1.0]), jnp.array([True, False])
    static = TASK_BALANCING['static'](weights=(0.5, 2.0))
    np.testing.assert_allclose(static.terms(losses, {}, squared), [2, 2])
    assert not static.by_task
    assert static.moving_weights({}, {}) is None
    assert (static.learned, static.state(2)) == ((), {})
    assert TASK_BALANCING['static'](pcgrad=True).by_task
    learned = TASK_BALANCING['uncertainty'](weights=(1.0, 2.0))
    params = {name: jnp.zeros(2) for name in learned.learned}
    terms = learned.terms(losses, params, squared)
    np.testing.assert_allclose(terms, [2, 2])
    paced = TASK_BALANCING['gradnorm'](alpha=1.0, rate=0.1)
    assert paced.by_task
    state = paced.state(2)
    products = jnp.array([[4.0, 0.0], [0.0, 36.0]])
    weights, after = paced.step(state, losses, products)
    np.testing.assert_array_equal(weights, [1, 1])
    np.testing.assert_allclose(after['gradnorm']['weights'], [1.5, 0.5], 1e-6)
    assert paced.moving_weights({}, after) is after['gradnorm']['weights']


def test_options_stand_with_their_entry():
    section = lambda **balance: {'workload': 'multitask', 'balance': balance}
    found = read_config(section(name='gradnorm', alpha=0.5)).balance
    assert (found.alpha, found.rate) == (0.5, 0.025)
    with pytest.raises(ConfigError, match='it is one of gradnorm'):
        read_config(section(name='static', alpha=0.5))


def test_balancing_of_a_plugin(monkeypatch):
    monkeypatch.setattr(TASK_BALANCING, '_entries', dict(TASK_BALANCING))

    @TASK_BALANCING.register('geometric')
    @dataclasses.dataclass(frozen=True)
    class Geometric(Balancing):
        def _scaled(self, losses, params, squared):
            return jnp.log(losses)

    plain = {'workload': 'multitask', 'balance': 'geometric'}
    balance = read_config(plain).balance
    terms = balance.terms(jnp.array([1.0, np.e]), {}, None)
    np.testing.assert_allclose(terms, [0, 1], atol=1e-6)
