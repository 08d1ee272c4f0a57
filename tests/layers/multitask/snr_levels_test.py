"""Rows of networks with routes between them, against loops in float64."""

import jax
import numpy as np

from moe.experts import Network
from moe.layers.multitask import SNR, SNRLevels
from tests import tiny

B, D, H = 4, 3, 2
X = tiny.numbers((B, D), 0)


def made(**options):
    networks = tuple(
        Network((H,), n, activation=('relu',), parent=None) for n in (2, 3)
    )
    routes = tuple(SNR(n, H, parent=None) for n in (3, 2))
    layer = SNRLevels(networks, routes, **options)
    params = tiny.parameters(layer.init, X, scale=1.0)
    return layer, params


def test_equals_the_loops():
    layer, params = made()
    y, aux = jax.jit(layer.apply)({'params': params}, X)
    assert y.shape == (B, 2, H)
    params = jax.tree.map(np.float64, params)
    inputs = [np.float64(X)] * 2  # of the two first networks
    probability = 0.0
    for level, outputs in ((0, 3), (1, 2)):
        dense = params[f'networks_{level}']['dense_0']
        route = params[f'routes_{level}']
        hidden = [
            np.maximum(x @ w + b, 0)
            for x, w, b in zip(
                inputs, dense['kernel'], dense['bias'], strict=True
            )
        ]
        s = 1 / (1 + np.exp(-route['log_alpha']))
        z = np.clip(1.2 * s - 0.1, 0, 1)
        inputs = [
            sum(z[j, i] * h @ route['weight'][j, i] for i, h in
                enumerate(hidden))
            for j in range(outputs)
        ]  # fmt: skip
        odds = route['log_alpha'] - 0.5 * np.log(0.1 / 1.1)
        probability += np.sum(1 / (1 + np.exp(-odds)))
        np.testing.assert_allclose(aux.stats[f'level_{level}/gate'], z, 1e-5)
    np.testing.assert_allclose(y, np.stack(inputs, axis=1), 1e-4, 1e-5)
    np.testing.assert_allclose(aux.losses['l0'], probability, 1e-5)
    assert aux.losses['regularization'] == 0


def test_regularisation_is_of_the_networks():
    layer, params = made(kernel_penalty={'l2': 0.5}, bias_penalty={'l1': 2.0})
    _, aux = layer.apply({'params': params}, X)
    desired = 0.0
    for level in (0, 1):
        dense = params[f'networks_{level}']['dense_0']
        desired += 0.5 * np.sum(np.float64(dense['kernel']) ** 2)
        desired += 2 * np.sum(np.abs(np.float64(dense['bias'])))
    np.testing.assert_allclose(aux.losses['regularization'], desired, 1e-5)


def test_drawn_in_training_and_only_then():
    layer, params = made()
    apply = jax.jit(layer.apply, static_argnames='train')
    draw = lambda seed: (
        apply(
            {'params': params},
            X,
            train=True,
            rngs={'router': jax.random.key(seed)},
        )[1].stats
    )
    one, same, other = draw(0), draw(0), draw(1)
    name = 'level_0/gate'
    np.testing.assert_array_equal(one[name], same[name])
    assert np.max(np.abs(one[name] - other[name])) > 0.1
    # Levels are drawn apart.
    uniform = [draw(seed)['level_0/gate'][:2, :2] for seed in range(4)]
    below = [draw(seed)['level_1/gate'][:2, :2] for seed in range(4)]
    assert np.max(np.abs(np.array(uniform) - np.array(below))) > 0.1


def test_padding_is_zero_and_changes_nothing():
    layer, params = made()
    mask = np.array([1, 0, 1, 0], bool)
    wild = np.where(mask[:, None], X, np.nan).astype(np.float32)
    y, _ = layer.apply({'params': params}, wild, mask=mask)
    whole, _ = layer.apply({'params': params}, X)
    np.testing.assert_allclose(y[mask], whole[mask], 1e-6)
