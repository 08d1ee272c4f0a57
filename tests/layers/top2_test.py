"""Mixtures made in one call, against recorded runs and layers made by hand."""

import functools
import json
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.config import ConfigError
from moe.experts import MLP
from moe.layers import hierarchical_top2_moe, top2_moe
from tests import tiny
from tests.reference.compare import assert_close

FILE = pathlib.Path(__file__).parents[1] / 'goldens' / 'top2_moe.json'
E, D = 3, 4
X = tiny.numbers((2, 6, D), 0)


def recorded(name):
    """A recorded run: its config, values by field, and what it was given."""
    data = json.loads(FILE.read_text())[name]
    numbers = functools.partial(np.array, dtype=np.float32)
    params = jax.tree.map(numbers, data['params'], is_leaf=is_list)
    grads = jax.tree.map(numbers, data['grads'], is_leaf=is_list)
    return data, numbers(data['x']), params, grads


def is_list(value):
    return isinstance(value, list)


def layer_of(config, make, num_experts):
    return make(
        config['dim'],
        num_experts,
        config['hidden'],
        activation=config['activation'],
        capacity_factor=config['capacity_factor'],
        eval_capacity_factor=config['capacity_factor'],
        policy=config['second_policy'],
        eval_policy=config['second_policy'],
    )


def check(layer, data, x, params, gradients):
    config = data['config']

    def objective(params, x):
        y, aux = layer.apply({'params': params}, x, train=config['training'])
        loss = config['loss_coef'] * aux.losses['load_balance']
        return jnp.sum(y**2) + 100 * loss, (y, loss)

    run = jax.jit(jax.grad(objective, argnums=(0, 1), has_aux=True))
    (d_params, d_x), (y, loss) = jax.device_get(run(params, x))
    assert_close(y, np.array(data['y']), 1e-5)
    desired = np.float64(data['aux_loss_times_coef'])
    assert_close(loss, desired, 1e-5, scale=desired)
    assert_close(d_params, gradients, 1e-5)
    assert_close(d_x, np.array(data['grad_x']), 1e-5)


@pytest.mark.parametrize('name', ['flat_all_cf1.25', 'flat_none_cf2'])
def test_one_level_reproduces_the_recorded_run(name):
    data, x, params, grads = recorded(name)
    tree = lambda of: {
        'router': of['gate.w_gating'],
        'experts': {'up': of['experts.w1'], 'down': of['experts.w2']},
    }
    layer = layer_of(data['config'], top2_moe, data['config']['num_experts'])
    check(layer, data, x, tree(params), tree(grads))


def test_two_levels_reproduce_the_recorded_run():
    data, x, params, grads = recorded('hier_all')
    experts = lambda of: {'up': of['experts.w1'], 'down': of['experts.w2']}
    tree = lambda of: {
        'outer': {'router': of['gate_outer.w_gating']},
        'inner': {
            'router': of['gate_inner.w_gating'],
            'experts': experts(of),
        },
    }
    count = np.shape(params['experts.w1'])[:2]
    layer = layer_of(data['config'], hierarchical_top2_moe, count)
    check(layer, data, x, tree(params), tree(grads))


class Own(nn.Module):
    """A caller's expert, with a matrix and a bias."""

    @nn.compact
    def __call__(self, rows):
        return nn.tanh(nn.Dense(D)(rows))


def run(layer):
    """Parameters and outputs, dropless."""
    params = jax.jit(layer.init)(jax.random.key(0), X)
    apply = jax.jit(functools.partial(layer.apply, record=True))
    y, aux = apply(params, X)
    return params, y, aux.routing


def dropless(make, *counts, **options):
    factors = {'capacity_factor': None, 'eval_capacity_factor': None}
    return make(D, *counts, **factors | options)


def by_gates(routing, outputs):
    """`sum_e gate_e * output_e(x)`, from the recorded choices."""
    hit = routing.expert[..., None] == np.arange(E)
    gates = np.sum(np.where(hit, routing.weight[..., None], 0), axis=1)
    return np.einsum('gse,egsf->gsf', gates, np.stack(outputs))


def test_activation_is_any_function():
    layer = dropless(top2_moe, E, 5, activation=lambda x: x**3)
    params, y, routing = run(layer)
    up, down = (params['params']['experts'][n] for n in ('up', 'down'))
    outputs = [(X @ up[e]) ** 3 @ down[e] for e in range(E)]
    assert_close(y, by_gates(routing, outputs), 1e-5)


def test_copies_of_a_callers_expert():
    layer = dropless(top2_moe, E, experts=Own())
    params, y, routing = run(layer)
    dense = params['params']['experts']['expert']['Dense_0']
    outputs = [
        np.tanh(X @ dense['kernel'][e] + dense['bias'][e]) for e in range(E)
    ]
    assert_close(y, by_gates(routing, outputs), 1e-5)


def test_experts_that_differ():
    experts = [nn.Dense(D), Own(), nn.Dense(D, use_bias=False)]
    layer = dropless(top2_moe, E, experts=experts)
    params, y, routing = run(layer)
    own = [params['params']['experts'][f'experts_{e}'] for e in range(E)]
    outputs = [
        module.apply({'params': of}, X)
        for module, of in zip(experts, own, strict=True)
    ]
    assert_close(y, by_gates(routing, outputs), 1e-5)


def test_two_levels_of_a_callers_expert():
    layer = dropless(hierarchical_top2_moe, (2, E), experts=Own())
    params, y, _ = run(layer)
    inner = params['params']['inner']['experts']['expert']['Dense_0']
    assert inner['kernel'].shape == (2, E, D, D)
    assert y.shape == X.shape
    assert np.all(np.isfinite(y))


def test_inside_a_callers_model():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x, _ = top2_moe(D, E, name='flat')(x)
            layer = hierarchical_top2_moe(D, (2, 2), experts=Own(parent=None))
            return layer(x)[0]

    init = Model().init
    params = jax.eval_shape(init, jax.random.key(0), X)['params']
    assert sorted(params) == ['HierarchicalMoE_0', 'flat']
    assert params['flat']['experts']['up'].shape == (E, D, 4 * D)


def test_further_fields_of_the_layer_and_the_gating():
    layer = top2_moe(D, E, policy='none', jitter=0.1, dispatcher='grouped')
    assert layer.router.keywords == {'policy': 'none'}
    assert (layer.jitter, layer.dispatcher) == (0.1, 'grouped')


def test_refuses_another_number_of_experts():
    line = r'^experts = 4: must be num_experts \(3\)$'
    with pytest.raises(ConfigError, match=line):
        top2_moe(D, E, experts=MLP(5, 4))
