"""Networks in parallel against one after the other, and recorded runs."""

import functools
from typing import get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.experts import (
    BatchNorm,
    Network,
    Networks,
    Renorm,
    regularization,
)
from moe.experts.network import (
    ActivationName,
    InitializerName,
    initializer,
)
from tests import tiny
from tests.reference import multitask as reference
from tests.reference.compare import assert_close

pytestmark = pytest.mark.slow

B, N, D, F, H = 4, 3, 3, 4, 2
# Training outputs and gradients of every option, one network and parallel.
OPTIONS = {
    'plain': {},
    'tanh': {'activation': 'tanh'},
    'each': {'activation': ('silu', 'sigmoid')},
    'function': {'activation': (nn.tanh, 'relu')},
    'no bias': {'use_bias': False},
    'learned': {'weight_norm': 'learned'},
    'fixed': {'weight_norm': 'fixed'},
    'unit': {'weight_norm': 'unit'},
    'batch norm': {'batch_norm': BatchNorm, 'weight_norm': 'learned'},
}
NAMES = {
    'tanh': ('tanh', 'linear'),
    'each': ('silu', 'sigmoid'),
    'function': ('tanh', 'relu'),
}


def drawn(layer, x):
    """Random parameters, norms and gammas near 1, and the initial state."""
    variables = layer.init(jax.random.key(0), x)
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        near = 1.0 if path[-1].key in ('norm', 'gamma') else 0.0
        return np.float32(near + 0.5 * rng.standard_normal(leaf.shape))

    params = variables.pop('params')
    return jax.tree_util.tree_map_with_path(draw, params), variables


@pytest.mark.parametrize(
    ('option', 'inputs'),
    [
        *((option, 'shared') for option in OPTIONS),
        *((option, 'one') for option in ('each', 'fixed', 'batch norm')),
        *((option, 'own') for option in ('plain', 'batch norm')),
    ],
)
def test_equals_the_loop(option, inputs):
    num = None if inputs == 'one' else N
    layer = Network((F, H), num, **OPTIONS[option])
    x = tiny.numbers((B, N, D) if inputs == 'own' else (B, D), 1)
    dy = tiny.numbers((B, H) if num is None else (B, N, H), 2)
    params, state = drawn(layer, x)
    activations = NAMES.get(option, ('relu', 'linear'))

    @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
    def gradients(params, x):
        y = layer.apply({'params': params, **state}, x, train=True)
        return jnp.sum(y * dy), y

    (d_params, d_x), y = jax.jit(gradients)(params, x)
    for n in range(num or 1):
        own = (lambda v: v) if num is None else (lambda v, n=n: v[:, n])
        given = reference.wide(
            params if num is None else reference.one_of(params, n)
        )
        for i, width in enumerate((F, H)):
            if option == 'unit':
                given[f'dense_{i}']['norm'] = np.ones(width)
            if option == 'fixed':
                norm = np.float64(state['constants'][f'dense_{i}']['norm'])
                given[f'dense_{i}']['norm'] = norm if num is None else norm[n]
        x_n = np.float64(own(x) if inputs == 'own' else x)
        desired = reference.network(x_n, given, activations)
        assert_close(own(y), desired, 5e-6)

        def objective(tree, x=x_n, own=own):
            return np.sum(reference.network(x, tree, activations) * own(dy))

        slopes = reference.numerical_gradient(objective, given)
        if option in ('unit', 'fixed'):
            for i in range(2):
                del slopes[f'dense_{i}']['norm']
        got = d_params if num is None else reference.one_of(d_params, n)
        assert_close(got, slopes, 2e-5, scale=1.0)
        if inputs != 'shared':
            slopes = reference.numerical_gradient(
                lambda x: objective(given, x),  # noqa: B023
                x_n,
            )
            assert_close(own(d_x), slopes, 2e-5, scale=1.0)


def test_activations_by_name():
    # Seen on [-1, 2]: gelu by its tanh form, silu is v sigmoid(v).
    v = np.array([-1.0, 2.0])
    sigmoid = 1 / (1 + np.exp(-v))
    cubic = np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)
    desired = {
        'gelu': 0.5 * v * (1 + np.tanh(cubic)),
        'linear': v,
        'relu': [0, 2],
        'sigmoid': sigmoid,
        'silu': v * sigmoid,
        'tanh': np.tanh(v),
    }
    params = {'dense_0': {'kernel': np.float32([[1.0]])}}
    for name, value in desired.items():
        layer = Network((1,), activation=(name,), use_bias=False)
        y = layer.apply({'params': params}, np.float32(v)[:, None])
        np.testing.assert_allclose(y[:, 0], value, rtol=1e-6)
        # For all layers: the last one stays linear.
        layer = Network((1,), activation=name, use_bias=False)
        y = layer.apply({'params': params}, np.float32(v)[:, None])
        np.testing.assert_array_equal(y[:, 0], np.float32(v))


@pytest.mark.parametrize('num', [None, 4])
def test_initial_fan_is_of_one_network(num):
    # glorot_uniform of [100, 50]: limit sqrt(6 / 150) = .2, deviation
    # .2 / sqrt(3); glorot_normal and he_normal: sqrt(2 / 150), sqrt(2 / 100).
    deviations = {
        'glorot_uniform': 0.2 / np.sqrt(3),
        'glorot_normal': np.sqrt(2 / 150),
        'he_normal': np.sqrt(2 / 100),
        'lecun_uniform': np.sqrt(1 / 100),
    }
    for name, deviation in deviations.items():
        layer = Network((50,), num, kernel_init=name)
        params = layer.init(jax.random.key(0), jnp.ones((1, 100)))['params']
        kernel = params['dense_0']['kernel']
        assert kernel.shape == (*([num] if num else []), 100, 50)
        # 5000 draws each: the deviation is known to 1 %; take five of them.
        spread = np.std(kernel, axis=(-2, -1))
        np.testing.assert_allclose(spread, deviation, rtol=0.05)
        if name == 'glorot_uniform':
            assert np.max(np.abs(kernel)) <= 0.2
        assert not np.any(params['dense_0']['bias'])


def test_networks_differ_pairwise_at_first():
    params = Network((F, H), N).init(jax.random.key(0), jnp.ones((1, D)))
    for layer in params['params'].values():
        for a, b in ((0, 1), (0, 2), (1, 2)):
            assert np.all(layer['kernel'][a] != layer['kernel'][b])


def test_initializers_of_each_layer_and_functions():
    fill = lambda key, shape, dtype: jnp.full(shape, len(shape), dtype)
    layer = Network((F, H), N, kernel_init=('zeros', fill))
    params = layer.init(jax.random.key(0), jnp.ones((1, D)))['params']
    assert not np.any(params['dense_0']['kernel'])
    # A function sees the shape [D, H] of one network.
    assert np.all(params['dense_1']['kernel'] == 2)


def test_weight_norm_is_the_identity_at_first():
    x = tiny.numbers((B, D), 1)
    plain = Network((F, H), N)
    params = plain.init(jax.random.key(0), x)['params']
    desired = plain.apply({'params': params}, x)
    for kind in ('learned', 'fixed'):
        layer = Network((F, H), N, weight_norm=kind)
        variables = layer.init(jax.random.key(0), x)
        y = layer.apply(variables, x)
        assert_close(y, np.asarray(desired), 2e-6)
        of = 'params' if kind == 'learned' else 'constants'
        norm = variables[of]['dense_0']['norm']
        kernel = params['dense_0']['kernel']
        assert_close(norm[1], reference.norms(np.float64(kernel[1])), 1e-6)
        # Twice the kernel is the same weight.
        kernels = jax.tree_util.tree_map_with_path(
            lambda path, v: 2 * v if path[-1].key == 'kernel' else v,
            variables['params'],
        )
        twice = layer.apply({**variables, 'params': kernels}, x)
        assert_close(twice, np.asarray(desired), 2e-6)


def test_weight_norm_of_a_tiny_column_is_finite():
    # |V|^2 = 0 and 1e-8 count as 1e-6: rsqrt gives 1000, 1e-4 * 1000 = .1.
    layer = Network((2,), weight_norm='unit', use_bias=False)
    kernel = np.float32([[0.0, 1e-4]])
    apply = lambda kernel: layer.apply(
        {'params': {'dense_0': {'kernel': kernel}}}, jnp.ones((1, 1))
    )
    np.testing.assert_allclose(apply(kernel), [[0, 0.1]], rtol=1e-6)
    gradient = jax.grad(lambda kernel: jnp.sum(apply(kernel)))(kernel)
    np.testing.assert_allclose(gradient, [[1000, 1000]], rtol=1e-6)


RECORDED = {
    'mlp_bn_momentum0.9': functools.partial(BatchNorm, momentum=0.9),
    'mlp_bn_renorm': functools.partial(
        BatchNorm, momentum=0.9, renorm=Renorm(momentum=0.8)
    ),
}
THEIRS = {
    'mean': 'moving_mean',
    'variance': 'moving_variance',
    'sd': 'moving_stddev',
    'renorm_mean': 'renorm_mean',
    'renorm_sd': 'renorm_stddev',
}


def recorded_params(params):
    """Parameters of a recorded network, by our names."""
    got = lambda name: np.float32(params[f'mlp/{name}'])
    tree = {
        ours: {n: got(f'BatchNorm/{theirs}/{n}') for n in ('gamma', 'beta')}
        for ours, theirs in (('batch_norm_in', 'in'), ('batch_norm_0', 'out'))
    }
    for i in range(2):
        tree[f'dense_{i}'] = {
            'kernel': got(f'dense_{i}/kernel'),
            'bias': got(f'dense_{i}/bias'),
            'norm': got(f'dense_{i}/trainable_kernel_norm'),
        }
    return tree


@pytest.mark.parametrize('name', RECORDED)
def test_reproduces_the_recorded_runs_step_by_step(name):
    data = reference.golden(name)
    layer = Network(
        (4, 3),
        activation='relu',
        weight_norm='learned',
        batch_norm=RECORDED[name],
    )
    params = recorded_params(data['params'])
    x = np.float32(data['steps'][0]['x'])
    stats = layer.init(jax.random.key(0), x)['batch_stats']
    for step in data['steps']:
        x = np.float32(step['x'])
        y, moved = layer.apply(
            {'params': params, 'batch_stats': stats},
            x,
            train=True,
            mutable=['batch_stats'],
        )
        stats = moved['batch_stats']
        assert_close(y, step['train_out'], 1e-5)
        after = step['state_after']
        for ours, theirs in (('batch_norm_in', 'in'), ('batch_norm_0', 'out')):
            for average, value in stats[ours].items():
                if average == 'updates':
                    continue
                desired = after[f'mlp/BatchNorm/{theirs}/{THEIRS[average]}']
                assert_close(value, desired, 1e-5)
            # What evaluation takes as the variance, also with renorm.
            if 'sd' in stats[ours]:
                variance = np.maximum(stats[ours]['sd'] ** 2 - 1e-3, 0)
                recorded = after[f'mlp/BatchNorm/{theirs}/moving_variance']
                assert_close(variance, recorded, 1e-5)


def test_regularization_is_a_sum_over_networks():
    params = {
        'a': {'kernel': jnp.array([[[3.0, -4.0]], [[0.0, 1.0]]])},
        'b': {'bias': jnp.array([[1.0, -2.0], [2.0, 0.0]])},
        'norm': jnp.full(3, 100.0),
    }
    # l1 of the kernels 8, l2 26; l2 of the biases 9; the two kernels' norms
    # are 5 and 1.
    norm = lambda w: jnp.sqrt(jnp.sum(w**2))
    for kernel, bias, value in [
        (None, None, 0),
        ({'l1': 1.0}, None, 8),
        ({'l1': 1.0, 'l2': 0.5}, {'l2': 2.0}, 8 + 13 + 18),
        (norm, None, 6),
    ]:
        got = regularization(params, kernel, bias)
        np.testing.assert_allclose(got, value, rtol=1e-6)


def test_refusals():
    run = lambda **options: Network((F, H), **options).init(
        jax.random.key(0), jnp.ones((1, D))
    )
    with pytest.raises(ValueError, match='1 of activation for 2 layers'):
        run(activation=('relu',))
    with pytest.raises(ValueError, match="activation 'rulu' is not in gelu"):
        run(activation='rulu')
    with pytest.raises(ValueError, match="kernel_init 'x' is not in glorot"):
        run(kernel_init='x')


def test_names_are_those_of_the_tables():
    # What a config may say is what there is.
    x = jnp.linspace(-1, 1, 5)
    for name in get_args(ActivationName):
        y = Network((1,), activation=(name,)).init_with_output(
            jax.random.key(0), x[:, None]
        )[0]
        assert y.shape == (5, 1)
    for name in get_args(InitializerName):
        assert initializer(name)(jax.random.key(0), (3, 2)).shape == (3, 2)
    assert initializer(nn.initializers.ones) is nn.initializers.ones
    with pytest.raises(ValueError, match="initializer 'x' is not in glorot"):
        initializer('x')


def test_networks_that_are_not_alike_are_each_by_itself():
    alone = [Network((H,)), Network((F, H), activation='tanh')]
    layer = Networks([network.clone(parent=None) for network in alone])
    x = tiny.numbers((B, D), 0)
    params, _ = drawn(layer, x)
    for inputs in (x, np.stack([x, -x], axis=1)):
        y = layer.apply({'params': params}, inputs)
        for i, network in enumerate(alone):
            own = inputs if inputs.ndim == 2 else inputs[:, i]
            desired = network.apply({'params': params[f'networks_{i}']}, own)
            np.testing.assert_array_equal(y[:, i], desired)
    with pytest.raises(ValueError, match=r'experts of widths \[2, 3\]'):
        Networks((Network((2,)), Network((3,)))).init(jax.random.key(0), x)
