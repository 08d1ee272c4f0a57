"""Cross-stitched networks against a loop over tasks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.experts import BatchNorm, Network
from moe.layers.multitask import CrossStitch
from tests import tiny
from tests.reference import multitask as reference
from tests.reference.compare import assert_close

B, D, T = 3, 3, 3
LEVELS = ((4, 3), (2,))
MASK = np.array([1, 0, 1], bool)
X, DY = tiny.numbers((B, D), 0), tiny.numbers((B, T, 2), 1)
NAMES = (('tanh', 'tanh'), ('linear',))


def by_loop(params, x):
    inputs = [x[:, t] for t in range(T)]
    for i, names in enumerate(NAMES):
        outputs = [
            reference.network(
                inputs[t], reference.one_of(params[f'level_{i}'], t), names
            )
            for t in range(T)
        ]
        stitch = params[f'stitch_{i}']
        inputs = [
            sum(stitch[t, s] * outputs[s] for s in range(T)) for t in range(T)
        ]
    return np.stack(inputs, axis=1)


@pytest.mark.parametrize('own', [False, True])
def test_equals_the_loop(own):
    layer = CrossStitch(LEVELS, T, activation='tanh')
    x = tiny.numbers((B, T, D), 2) if own else X
    params = tiny.parameters(layer.init, x, scale=0.7)

    @functools.partial(jax.grad, has_aux=True)
    def gradients(params):
        y, aux = layer.apply({'params': params}, x, train=True, mask=MASK)
        return jnp.sum(y * DY), (y, aux)

    d_params, (y, aux) = jax.jit(gradients)(params)
    wide, valid = reference.wide(params), MASK[:, None, None]
    inputs = np.float64(x if own else np.stack([x] * T, axis=1))
    assert_close(y, by_loop(wide, inputs) * valid, 5e-6)
    slopes = reference.numerical_gradient(
        lambda tree: np.sum(by_loop(tree, inputs) * DY * valid), wide
    )
    assert_close(d_params, slopes, 2e-5, scale=1.0)
    for i in range(2):
        stitch = params[f'stitch_{i}']
        np.testing.assert_array_equal(aux.stats[f'level_{i}/gate'], stitch)


@pytest.mark.parametrize(
    ('tasks', 'matrix'),
    [
        (1, [[1]]),
        (2, [[0.9, 0.1], [0.1, 0.9]]),
        (3, [[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]]),
    ],
)
def test_is_near_the_identity_at_first(tasks, matrix):
    layer = CrossStitch(((2,),), tasks)
    params = jax.jit(layer.init)(jax.random.key(0), X)['params']
    np.testing.assert_allclose(params['stitch_0'], matrix, rtol=1e-6)
    if tasks == 1:
        return
    # near = 1: networks of their own.
    layer = CrossStitch(((2,),), tasks, near=1.0)
    params = jax.jit(layer.init)(jax.random.key(0), X)['params']
    np.testing.assert_array_equal(params['stitch_0'], np.eye(tasks))


def test_regularisation_is_of_all_levels():
    layer = CrossStitch(
        LEVELS, T, kernel_penalty={'l2': 1.0}, bias_penalty={'l1': 2.0}
    )
    params = tiny.parameters(layer.init, X)
    aux = jax.jit(lambda p: layer.apply({'params': p}, X)[1])(params)
    total = 0.0
    for level in ('level_0', 'level_1'):
        for dense in params[level].values():
            total += np.sum(dense['kernel'] ** 2)
            total += 2 * np.sum(np.abs(dense['bias']))
    np.testing.assert_allclose(aux.losses['regularization'], total, rtol=1e-5)


def test_padding_changes_nothing():
    make = functools.partial(Network, batch_norm=BatchNorm)
    layer = CrossStitch(LEVELS, T, network=make)
    variables = jax.jit(layer.init)(jax.random.key(0), X)

    @jax.jit
    def run(x):
        return layer.apply(
            variables, x, train=True, mask=MASK, mutable=['batch_stats']
        )

    desired = run(X)
    assert not np.any(desired[0][0][1])
    x = np.where(MASK[:, None], X, np.float32(np.nan))
    jax.tree.map(np.testing.assert_array_equal, run(x), desired)
