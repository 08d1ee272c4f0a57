"""Levels of extraction against loops over levels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.experts import BatchNorm, Network
from moe.layers.multitask import PLE
from moe.routing import noisy_top_k, sigmoid, update_router_state
from tests import tiny
from tests.reference import multitask as reference
from tests.reference.compare import assert_close

pytestmark = pytest.mark.slow

B, D, T, M, S = 3, 3, 2, 2, 1
E = T * M + S
X = tiny.numbers((B, D), 0)
MASK = np.array([1, 0, 1], bool)
KEY = jax.random.key(2)
WIDTHS = ((4, 3), (2,), (3, 2))
# Gates of the tasks, and of the shared output.
SEES = np.array([[1, 1, 0, 0, 1], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], bool)
OWNER = [0, 0, 1, 1, 2]


def by_loop(params, levels, x):
    """Outputs of the last level, tanh everywhere but at the end."""
    inputs = np.stack([x] * (T + 1), axis=1)
    for i, widths in enumerate(levels):
        last = i == len(levels) - 1
        own = params[f'level_{i}']
        names = ['tanh'] * len(widths)
        names[-1] = 'linear' if last else 'tanh'
        outputs = [
            reference.network(
                inputs[:, OWNER[e]], reference.one_of(own['experts'], e), names
            )
            for e in range(E)
        ]
        kernels = list(own['gates_of_3']['router'])
        if not last:
            kernels += list(own['gates_of_5']['router'])
        _, inputs = reference.multi_gate(
            np.stack(outputs, axis=1), inputs, kernels, SEES
        )
    return inputs


@pytest.mark.parametrize('levels', [WIDTHS[:1], WIDTHS[:2], WIDTHS])
def test_equals_the_loop(levels):
    layer = PLE(levels, T, M, S, activation='tanh')
    dy = tiny.numbers((B, T, levels[-1][-1]), 1)
    params = tiny.parameters(layer.init, X, scale=0.7)

    @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
    def gradients(params, x):
        y, aux = layer.apply({'params': params}, x, train=True, mask=MASK)
        return jnp.sum(y * dy), (y, aux)

    (d_params, d_x), (y, aux) = jax.jit(gradients)(params, X)
    live = MASK[:, None, None]
    wide, x = reference.wide(params), np.float64(X)
    assert_close(y, by_loop(wide, levels, x) * live, 5e-6)
    objective = lambda tree, x: np.sum(by_loop(tree, levels, x) * dy * live)
    slopes = reference.numerical_gradient(lambda v: objective(v, x), wide)
    assert_close(d_params, slopes, 2e-5, scale=1.0)
    slopes = reference.numerical_gradient(lambda v: objective(wide, v), x)
    assert_close(d_x, slopes, 2e-5, scale=1.0)
    assert set(aux.losses) >= {'importance', 'regularization'}
    for i in range(len(levels)):
        gates = T if i == len(levels) - 1 else T + 1
        gate = np.asarray(aux.stats[f'level_{i}/gate'])
        np.testing.assert_array_equal(gate > 0, SEES[:gates])


def test_losses_are_means_and_regularisation_a_sum_over_the_levels():
    layer = PLE(WIDTHS, T, M, S, kernel_penalty={'l2': 1.0})
    params = tiny.parameters(layer.init, X, scale=0.7)
    aux = jax.jit(lambda p: layer.apply({'params': p}, X)[1])(params)
    kernels = [
        dense['kernel']
        for level in params.values()
        for dense in level['experts'].values()
    ]
    assert len(kernels) == 5
    squares = sum(np.sum(kernel**2) for kernel in kernels)
    np.testing.assert_allclose(aux.losses['regularization'], squares, rtol=1e-5)
    vectors = [aux.stats[f'level_{i}/importance_cv2'] for i in range(3)]
    mean = np.mean([np.mean(vector) for vector in vectors])
    np.testing.assert_allclose(aux.losses['importance'], mean, rtol=1e-5)
    # Softmax gates sum to 1 in every level.
    np.testing.assert_allclose(aux.losses['l1'], 1, rtol=1e-5)


def test_state_noise_and_batch_statistics():
    make = functools.partial(Network, batch_norm=BatchNorm)
    layer = PLE(WIDTHS[:2], T, M, S, network=make, router=sigmoid)
    variables = jax.jit(layer.init)(KEY, X)

    @functools.partial(jax.jit, static_argnums=1)
    def run(variables, train, x=X):
        return layer.apply(
            variables, x, train=train, mask=MASK, mutable=['batch_stats']
        )

    (y, aux), moved = run(variables, True)
    same = lambda a, b: jax.tree.map(np.testing.assert_array_equal, a, b)
    x = np.where(MASK[:, None], X, np.float32(np.nan))
    same(run(variables, True, x), ((y, aux), moved))
    mean = moved['batch_stats']['level_1']['experts']['batch_norm_in']['mean']
    # The two experts of a task take the same input; tasks differ.
    same(mean[0], mean[1])
    assert np.all(mean[0] != mean[2])
    state = update_router_state(variables['router_state'], aux.state_statistics)
    load = np.asarray(aux.stats['level_0/load'])[2]
    change = 1e-3 * np.sign(load.mean() - load)
    bias = state['level_0']['gates_of_5']['bias'][0]
    assert_close(bias, change - change.mean(), 1e-6)
    assert sorted(state['level_1']) == ['gates_of_3']


def test_levels_have_noise_of_their_own_and_none_in_evaluation():
    layer = PLE(((3,), (3,)), T, M, S, router=noisy_top_k)
    variables = jax.jit(layer.init)(KEY, X)

    @functools.partial(jax.jit, static_argnums=1)
    def run(key, train):
        return layer.apply(variables, X, train=train, rngs={'router': key})

    still = run(KEY, False)[0]
    np.testing.assert_array_equal(run(jax.random.key(5), False)[0], still)
    y, aux = run(KEY, True)
    other = run(jax.random.key(5), True)[0]
    assert not np.allclose(y, other)
    gates = [aux.stats[f'level_{i}/gate'][:T] for i in range(2)]
    assert not np.allclose(*gates)
