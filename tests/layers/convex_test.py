"""Convex combinations against their formula, by hand and while training."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from moe.layers import ConvexCombination
from tests import tiny
from tests.reference.compare import assert_close
from tests.reference.routing import softmax

B, D, F = 6, 4, 3


class Times(nn.Module):
    """A network without parameters."""

    factor: float

    def __call__(self, x, *, negative=False):
        return -self.factor * x if negative else self.factor * x


def test_known_weights():
    # softmax([log 2, 0, log 5]) = [2, 1, 5] / 8; 2*1 + 1*10 + 5*100 = 512.
    layer = ConvexCombination((Times(1.0), Times(10.0), Times(100.0)))
    theta = np.log(np.float32([2, 1, 5]))
    run = jax.jit(layer.apply, static_argnames='negative')
    y, aux = run({'params': {'theta': theta}}, jnp.ones((2, 1)))
    np.testing.assert_allclose(y, [[64.0], [64.0]], rtol=1e-6)
    np.testing.assert_allclose(
        aux.stats['weights'], [0.25, 0.125, 0.625], rtol=1e-6
    )
    assert aux.losses == {}
    # An input of its own for each: (2*1*3 + 1*10*2 + 5*100*1) / 8 = 65.75.
    inputs = tuple(jnp.full((2, 1), v) for v in (3.0, 2.0, 1.0))
    y, _ = run({'params': {'theta': theta}}, inputs)
    np.testing.assert_allclose(y, [[65.75], [65.75]], rtol=1e-6)
    y, _ = run({'params': {'theta': theta}}, inputs, negative=True)
    np.testing.assert_allclose(y, [[-65.75], [-65.75]], rtol=1e-6)


@pytest.mark.parametrize('count', [1, 5])
def test_equals_the_formula_with_gradients(count):
    layer = ConvexCombination(tuple(nn.Dense(F) for _ in range(count)))
    inputs = tuple(tiny.numbers((B, D), i) for i in range(count))
    params = tiny.parameters(layer.init, inputs, scale=1.0)
    dy = tiny.numbers((B, F), 9)

    def objective(params, inputs):
        y, aux = layer.apply({'params': params}, inputs)
        return jnp.sum(y * dy), (y, aux)

    run = jax.jit(jax.grad(objective, argnums=(0, 1), has_aux=True))
    (d_params, d_inputs), (y, aux) = jax.device_get(run(params, inputs))
    # In float64; each network's outputs, and what dy makes of them.
    wide = jax.tree.map(np.float64, params)
    weights = softmax(wide['theta'])
    outputs, gain = [], np.zeros(count)
    for i, x in enumerate(inputs):
        network = wide[f'networks_{i}']
        outputs.append(np.float64(x) @ network['kernel'] + network['bias'])
        gain[i] = np.sum(outputs[i] * dy)
    assert_close(y, np.tensordot(weights, outputs, 1), 1e-6)
    assert_close(aux.stats['weights'], weights, 1e-6)
    # d softmax_i / d theta_k = w_i (1[i = k] - w_k).
    theta = weights * (gain - np.sum(weights * gain))
    assert_close(d_params['theta'], theta, 2e-6, scale=np.max(np.abs(gain)))
    for i, x in enumerate(inputs):
        kernel = wide[f'networks_{i}']['kernel']
        desired = {
            'kernel': weights[i] * np.float64(x).T @ dy,
            'bias': weights[i] * np.sum(np.float64(dy), axis=0),
        }
        assert_close(d_params[f'networks_{i}'], desired, 2e-6)
        assert_close(d_inputs[i], weights[i] * dy @ kernel.T, 2e-6)


def test_weights_stay_a_distribution_while_training():
    # The third network is the target: its weight grows, step by step.
    layer = ConvexCombination((Times(-1.0), nn.Dense(D), Times(2.0)))
    x = tiny.numbers((B, D), 0)
    params = layer.init(jax.random.key(0), x)
    optimizer = optax.sgd(0.5)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        def loss(params):
            y, aux = layer.apply(params, x)
            return jnp.mean(jnp.square(y - 2 * x)), aux.stats['weights']

        gradients, weights = jax.grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, weights

    history = []
    for _ in range(20):
        params, state, weights = step(params, state)
        history.append(np.array(weights))
        assert np.all(weights > 0)
        np.testing.assert_allclose(np.sum(weights), 1, rtol=1e-6)
    assert history[-1][2] > history[0][2] + 0.2
    assert np.all(np.diff([w[0] for w in history]) < 0)


def test_first_weights():
    # theta ~ U(0, 1): of 400 the mean is .5 +- .014, so .072 is 5 of them.
    layer = ConvexCombination((Times(1.0),) * 400)
    theta = layer.init(jax.random.key(0), jnp.ones((1, 1)))['params']['theta']
    assert theta.shape == (400,)
    assert 0 <= np.min(theta) < 0.05
    assert 0.95 < np.max(theta) <= 1
    np.testing.assert_allclose(np.mean(theta), 0.5, atol=0.072)


def test_refusals():
    x = jnp.ones((B, D))
    layer = ConvexCombination((Times(1.0), Times(2.0)))
    with pytest.raises(ValueError, match='3 inputs of 2 networks'):
        layer.init(jax.random.key(0), (x, x, x))
    layer = ConvexCombination((nn.Dense(1), nn.Dense(2)))
    with pytest.raises(ValueError, match='same shape'):
        layer.init(jax.random.key(0), x)
