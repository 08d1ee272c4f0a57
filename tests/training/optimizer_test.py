"""The mask of the decay, and what each optimizer does."""

import dataclasses
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from moe.config import ConfigError, Fraction, PositiveInt
from moe.experts import MLP, ZeroComputationExperts
from moe.layers import HardSwitch, MoE, Shared
from moe.parameters import Parameter, declared
from moe.training.optimizer import (
    OPTIMIZERS,
    Optimizer,
    decayed,
    make_optimizer,
)
from moe.training.schedules import SCHEDULES, constant
from moe.workloads.lm.model import LM
from tests import tiny

NAMES = ['adamw', 'adafactor', 'lion', 'muon']
TOKENS = np.random.default_rng(0).integers(0, 256, (2, 9), np.int32)
# A dense and a mixture layer, both with biases: every kind of parameter.
MODEL = tiny.model(
    {
        'moe_every': 2,
        'moe.experts.hidden': 32,
        'dense.use_bias': True,
        'moe.experts.use_bias': True,
    }
)


def make(name='adamw', steps=100, parameters=None, **changes):
    options = {
        'learning_rate': 1.0,
        'schedule': functools.partial(constant, warmup_steps=0),
        'weight_decay': 0.0,
        'clip_norm': None,
        **changes,
    }
    made = OPTIMIZERS[name](**options)
    return make_optimizer(made, steps, parameters or declarations())


@functools.lru_cache
def declarations():
    return declared(LM(MODEL).init, jax.random.key(0), TOKENS[:, :-1])


@functools.lru_cache
def parameters():
    params = tiny.parameters(LM(MODEL).init, TOKENS[:, :-1], scale=0.1)
    return jax.tree.map(jnp.asarray, params)


@functools.lru_cache
def compiled(name, **changes):
    optimizer = make(name, **changes)
    return jax.jit(optimizer.init), jax.jit(optimizer.update)


def leaves(tree):
    """Last name on the path to every leaf, and the leaf."""
    found = jax.tree_util.tree_leaves_with_path(tree)
    return [(path[-1].key, leaf) for path, leaf in found]


def test_decay_is_of_matrices_alone():
    found = {}
    for name, decay in leaves(decayed(declarations())):
        found.setdefault(decay, set()).add(name)
    matrices = {'query', 'key', 'value', 'out', 'up', 'gate', 'down'}
    assert found == {
        True: matrices | {'embedding', 'head'},
        False: {'scale', 'router', 'up_bias', 'gate_bias', 'down_bias'},
    }


def test_gates_are_not_decayed():
    # Nor is what scales or shifts; of the constant experts only the vectors.
    layer = Shared(
        MoE(
            MLP(4, num_experts=2, use_bias=True),
            zero_computation=ZeroComputationExperts(1, 1, 2),
        ),
        MLP(4),
        'sigmoid',
    )
    found = declared(layer.init, jax.random.key(0), np.ones((1, 2, 4)))
    names = {name for name, decay in leaves(decayed(found)) if decay}
    assert names == {'up', 'gate', 'down', 'vector'}
    names = {name for name, decay in leaves(decayed(found)) if not decay}
    assert names == {
        *('router', 'shared_gate', 'mix'),
        *('up_bias', 'gate_bias', 'down_bias'),
    }
    switch = HardSwitch((nn.Dense(2), nn.Dense(2)))
    found = declared(switch.init, jax.random.key(0), np.ones((2, 4)))
    assert not any(jax.tree.leaves(decayed(found['gate'])))
    assert decayed(found['experts_0']) == {'kernel': True, 'bias': False}


@pytest.mark.parametrize('name', NAMES)
def test_decay_without_a_gradient(name):
    # What is left of a step is -learning_rate * decay * p, of the matrices.
    init, update = compiled(name, learning_rate=0.5, weight_decay=0.1)
    params = parameters()
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = update(zero, init(params), params)
    for (key, step), (_, p), (_, decay) in zip(
        leaves(updates),
        leaves(params),
        leaves(decayed(declarations())),
        strict=True,
    ):
        desired = -0.05 * p if decay else 0 * p
        np.testing.assert_allclose(step, desired, atol=1e-7, err_msg=key)


def test_clipping():
    # The first moment after one step is (1 - b1) times the clipped gradient.
    params = {'w': jnp.zeros((2, 2))}
    known = {'w': Parameter((2, 2), (None, None), decay=True)}
    gradient = {'w': jnp.array([[3.0, 0.0], [0.0, -4.0]])}  # of norm 5
    for clip, norm in [(None, 5.0), (1.0, 1.0), (5.5, 5.0)]:
        optimizer = make(parameters=known, b1=0.8, clip_norm=clip)
        _, state = optimizer.update(gradient, optimizer.init(params), params)
        moment = optax.tree.get(state, 'mu')['w']
        desired = 0.2 * norm * gradient['w'] / 5
        np.testing.assert_allclose(moment, desired, rtol=1e-5)


def test_moments():
    # Adam's first step is the sign of the gradient; the second, of the same
    # gradient with the other sign, is (b1 * (1 - b1) - (1 - b1)) / (1 - b1^2)
    # = -(1 - b1) / (1 + b1): with b1 = .6, a fourth of a step back.
    optimizer = make(
        parameters={'w': Parameter((2,), (None,), decay=True)},
        b1=0.6,
        learning_rate=0.5,
    )
    params, gradient = {'w': jnp.ones(2)}, {'w': jnp.array([1e-2, -30.0])}
    first, state = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(first['w'], [-0.5, 0.5], rtol=1e-5)
    second, _ = optimizer.update({'w': -gradient['w']}, state, params)
    np.testing.assert_allclose(second['w'], [0.125, -0.125], rtol=1e-5)


@functools.lru_cache
def gradient():
    def loss(params):
        logits, _, aux = LM(MODEL).apply({'params': params}, TOKENS[:, :-1])
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits, TOKENS[:, 1:]
        )
        return jnp.mean(losses) + 0.01 * jnp.mean(aux.losses['load_balance'])

    return jax.jit(jax.value_and_grad(loss))


@pytest.mark.parametrize('name', NAMES)
def test_learns_one_batch_by_heart(name):
    # Sixteen targets among 256 bytes: at first about log(256) = 5.5.
    init, update = compiled(name, learning_rate=0.01)
    params = parameters()
    state, losses = init(params), []
    for _ in range(8):
        loss, grads = gradient()(params)
        losses.append(float(loss))
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert losses[0] > 5
    assert losses[-1] < losses[0] - 0.5


def test_muon_orthogonalises_each_matrix_of_the_stack():
    # The singular values of an orthogonal matrix are 1; the Newton-Schulz
    # iteration of Muon leaves them between .7 and 1.2, and its step is larger
    # by sqrt(outputs / inputs) where a matrix has more outputs than inputs.
    # Of a stack taken as one matrix they would be far less.
    init, update = compiled('muon', learning_rate=1.0)
    params = parameters()
    draw = np.random.default_rng(2)
    grads = jax.tree.map(
        lambda p: jnp.asarray(draw.standard_normal(p.shape, np.float32)), params
    )
    updates, _ = update(grads, init(params), params)
    layers = updates['stack']['layers']
    experts = layers['block_1']['moe']['experts']
    attention = layers['block_0']['attention']
    cases = [
        ('up', experts['up'], 2, 16, 32),
        ('gate', experts['gate'], 2, 16, 32),
        ('down', experts['down'], 2, 32, 16),
        ('dense up', layers['block_0']['mlp']['up'], 1, 16, 32),
        ('query', attention['query'], 1, 16, 16),  # all heads as one matrix
        ('out', attention['out'], 1, 16, 16),
    ]
    for name, stacked, lead, inputs, outputs in cases:
        count = int(np.prod(stacked.shape[:lead]))
        scale = np.sqrt(max(1, outputs / inputs))
        matrices = np.asarray(stacked).reshape(count, inputs, outputs)
        for matrix in matrices:
            values = np.linalg.svd(matrix, compute_uv=False) / scale
            assert 0.6 < values.min() < values.max() < 1.3, (name, values)
    # The rest, routers and biases too, takes the first step of Adam with
    # Nesterov's momentum: b1 * (1 - b1) / (1 - b1^2) + 1, with b1 = .9.
    rest = (updates['embedding'], layers['block_1']['moe']['router'])
    for step in rest:
        desired = 0.9 * 0.1 / 0.19 + 1
        np.testing.assert_allclose(np.abs(step), desired, rtol=1e-3)


def test_from_outside():
    # An optimizer and a schedule of one's own, chosen by name like ours.
    @SCHEDULES.register('halving_for_a_test')
    def halving(peak, steps, *, times: PositiveInt = 1):
        return lambda step: peak * 0.5 ** (step * times // steps)

    @OPTIMIZERS.register('sgd_for_a_test')
    @dataclasses.dataclass(frozen=True)
    class SGD(Optimizer):
        momentum: Fraction = 0.0

        def transform(self, learning_rate, parameters):
            return optax.chain(
                optax.trace(self.momentum),
                optax.add_decayed_weights(
                    self.weight_decay, decayed(parameters)
                ),
                optax.scale_by_learning_rate(learning_rate),
            )

    config = tiny.parsed(
        {
            'steps': 4,
            'optimizer': {
                'name': 'sgd_for_a_test',
                'learning_rate': 0.5,
                'schedule': {'name': 'halving_for_a_test', 'times': 2},
                'weight_decay': 0.1,
                'clip_norm': None,
            },
        }
    )
    assert config.optimizer == SGD(
        0.5, config.optimizer.schedule, 0.1, None, 1, 0.0
    )
    made = make_optimizer(config.optimizer, 4, declarations())
    params = parameters()
    state = made.init(params)
    rates = []
    for _ in range(4):
        ones = jax.tree.map(jnp.ones_like, params)
        updates, state = made.update(ones, state, params)
        rates.append(float(-updates['norm']['scale'][0]))
    np.testing.assert_allclose(rates, [0.5, 0.5, 0.25, 0.25])
    np.testing.assert_allclose(
        updates['head'], -0.25 * (1 + 0.1 * params['head']), rtol=1e-5
    )
    with pytest.raises(ConfigError, match=r'optimizer\.b1.*adamw, lion'):
        tiny.parsed({'optimizer': {'name': 'sgd_for_a_test', 'b1': 0.5}})


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_parts_have_learning_rates_of_their_own(name):
    factors = {'router': 0.5, 'experts': 2.0, 'embedding': 0.0}
    params = parameters()
    grads = jax.tree.map(lambda p: 0.1 + p, params)
    found = []
    for multipliers in ({}, factors):
        made = make(
            name, weight_decay=0.1, clip_norm=1.0, multipliers=multipliers
        )
        found.append(made.update(grads, made.init(params), params)[0])
    plain, scaled = found
    block = plain['stack']['layers']['block_1']
    desired = jax.tree.map(lambda x: x, plain)
    moe = desired['stack']['layers']['block_1']['moe']
    moe['router'] = 0.5 * block['moe']['router']
    moe['experts'] = jax.tree.map(lambda x: 2 * x, block['moe']['experts'])
    desired['embedding'] = jnp.zeros_like(plain['embedding'])
    chex.assert_trees_all_equal(scaled, desired)
    assert np.any(plain['embedding'])
