"""Blocks and their stack: pattern, scan, remat, norm, config checks."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.config import ConfigError
from moe.models.transformer import Block, RMSNorm, Stack, empty_cache
from tests import tiny
from tests.reference.compare import assert_close


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def inputs(*shape):
    return normal(0, *(shape or (2, 8, 16)))


@functools.lru_cache
def initial(stack):
    return jax.jit(stack.init)(jax.random.key(0), inputs())['params']


def shapes(stack):
    init = jax.eval_shape(stack.init, jax.random.key(0), inputs())
    return jax.tree.map(lambda leaf: leaf.shape, init['params']['layers'])


# Four layers: which block of the repeated pattern is a mixture, how often it
# is repeated, and the mixtures' numbers.
@pytest.mark.parametrize(
    ('every', 'mixtures', 'repeats', 'layers'),
    [
        (1, [True], 4, [0, 1, 2, 3]),
        (2, [False, True], 2, [1, 3]),
        (4, [False, False, False, True], 1, [3]),
        (0, [False], 4, []),
    ],
)
def test_cadence(every, mixtures, repeats, layers):
    config = tiny.model({'num_layers': 4, 'moe_every': every})
    assert config.moe_layers == layers
    assert config.period == len(mixtures)
    tree = shapes(Stack(config, causal=True))
    assert sorted(tree) == [f'block_{i}' for i in range(len(mixtures))]
    for i, mixture in enumerate(mixtures):
        block = tree[f'block_{i}']
        assert ('moe' in block, 'mlp' in block) == (mixture, not mixture)
        assert block['attention']['query'] == (repeats, 16, 2, 8)
        if mixture:
            assert block['moe']['router'] == (repeats, 16, 4)
            assert block['moe']['experts']['up'] == (repeats, 4, 16, 16)
        else:
            assert block['mlp']['up'] == (repeats, 16, 32)


def test_scan_equals_the_loop_over_blocks():
    # Layers 0 and 2 dense, 1 and 3 mixtures, in this order.
    config = tiny.model({'num_layers': 4, 'moe_every': 2})
    stack, x = Stack(config, causal=True), inputs()
    params = initial(stack)
    apply = jax.jit(lambda p, x: stack.apply({'params': p}, x))
    actual, cache, aux = apply(params, x)
    assert cache is None
    desired, losses, loads = x, [], []

    @functools.partial(jax.jit, static_argnums=0)
    def run(mixture, params, x):
        block = Block(config, mixture, causal=True)
        variables = {'params': params}
        return block.apply(variables, x, None, None, 0, False, False)

    for layer in range(4):
        block = params['layers'][f'block_{layer % 2}']
        mine = jax.tree.map(lambda p, i=layer // 2: p[i], block)
        desired, _, part = run(layer % 2 == 1, mine, desired)
        if layer % 2:
            losses.append(part.losses)
            loads.append(part.stats['load'])
    assert_close(actual, np.asarray(desired), 2e-6)
    for name in ('load_balance', 'router_z'):
        assert_close(aux.losses[name], [float(x[name]) for x in losses], 2e-6)
    np.testing.assert_array_equal(aux.stats['load'], np.stack(loads))
    # The layers' numbers differ, so that their order shows.
    assert not np.allclose(losses[0]['router_z'], losses[1]['router_z'])


def test_layers_and_experts_differ_at_the_start():
    config = tiny.model({'moe.use_bias': False})
    params = initial(Stack(config, causal=True))['layers']['block_0']
    weights = {**params['attention'], **params['moe']['experts']}
    weights['router'] = params['moe']['router']
    for name, leaf in weights.items():
        assert leaf.shape[0] == 2
        assert np.mean(np.abs(leaf[0] - leaf[1]) > 1e-4) > 0.9, name
    for name, leaf in params['moe']['experts'].items():
        experts = np.asarray(leaf).reshape(-1, *leaf.shape[2:])  # L * E
        for a, b in zip(*np.triu_indices(len(experts), 1), strict=True):
            different = np.abs(experts[a] - experts[b]) > 1e-4
            assert np.mean(different) > 0.9, (name, a, b)


def objective(stack, params, x):
    y, _, aux = stack.apply({'params': params}, x)
    extra = jnp.sum(aux.losses['load_balance'] + aux.losses['router_z'])
    return jnp.sum(jnp.sin(y)) + extra


def test_remat_changes_no_number():
    x = inputs()
    found = {}
    for remat in ('none', 'dots', 'full'):
        changes = {'remat': remat, 'moe.activation': 'relu'}
        stack = Stack(tiny.model(changes), causal=True)
        params = initial(Stack(tiny.model(), causal=True))
        gradient = jax.value_and_grad(functools.partial(objective, stack))
        value, gradients = jax.jit(gradient)(params, x)
        found[remat] = {'value': np.asarray(value), 'gradients': gradients}
    layer = found['none']['gradients']['layers']['block_0']
    assert np.min(np.max(np.abs(layer['moe']['router']), axis=(1, 2))) > 1e-3
    assert_close(found['dots'], found['none'], 2e-6)
    assert_close(found['full'], found['none'], 2e-6)


def test_remat_keeps_less():
    # Bytes the forward pass leaves for the backward pass, shapes alone.
    def kept(remat):
        stack = Stack(tiny.model({'remat': remat}), causal=True)
        function = functools.partial(objective, stack)
        params = jax.eval_shape(stack.init, jax.random.key(0), inputs())
        backward = jax.eval_shape(
            lambda p, x: jax.vjp(function, p, x)[1], params['params'], inputs()
        )
        return sum(leaf.size for leaf in jax.tree.leaves(backward))

    sizes = {remat: kept(remat) for remat in ('none', 'dots', 'full')}
    assert sizes['full'] < sizes['dots'] < sizes['none']


@pytest.mark.parametrize(('theta', 'sees'), [(None, False), (10.0, True)])
def test_positions_are_seen_through_the_rotation_alone(theta, sees):
    # Without a causal mask and without rotation a stack cannot tell the order.
    config = tiny.model({'rope_theta': theta, 'moe_every': 0})
    stack, x = Stack(config, causal=False), inputs()
    order = [3, 1, 0, 2, 7, 5, 6, 4]
    apply = jax.jit(lambda x: stack.apply({'params': initial(stack)}, x)[0])
    error = np.max(np.abs(apply(x)[:, order] - apply(x[:, order])))
    assert (error > 1e-2) if sees else (error < 1e-5)


def test_dense_stack_has_no_aux():
    stack = Stack(tiny.model({'moe_every': 0}), causal=True)
    made = jax.eval_shape(stack.init_with_output, jax.random.key(0), inputs())
    assert made[0][2] is None


def test_norm():
    # The row (3, 4) has a mean square of 12.5; epsilon 0.5 makes it 13.
    norm = RMSNorm(epsilon=0.5)
    x, scale = jnp.array([[3.0, 4.0]]), jnp.array([1.0, -2.0])
    y = norm.apply({'params': {'scale': scale}}, x)
    desired = [[3 / np.sqrt(13), -8 / np.sqrt(13)]]
    np.testing.assert_allclose(y, desired, rtol=1e-6)
    first = norm.init(jax.random.key(0), x)['params']['scale']
    np.testing.assert_array_equal(first, [1, 1])
    # In bfloat16 the mean of 4096 squares would stop growing far too early.
    long = jnp.full((1, 4096), 7.0, jnp.bfloat16)
    scale = {'scale': jnp.ones(4096)}
    y = RMSNorm().apply({'params': scale}, long)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.float32(y), 1)


def test_empty_cache():
    config = tiny.model(
        {
            'num_layers': 4,
            'moe_every': 2,
            'num_kv_heads': 1,
            'dtype': 'bfloat16',
        }
    )
    cache = empty_cache(config, batch=3, length=7)
    assert len(cache) == 2  # one for each block of the pattern
    for part in cache:
        for leaf in part:
            assert (leaf.shape, leaf.dtype) == ((2, 3, 7, 1, 8), jnp.bfloat16)
            assert not np.any(leaf)


@pytest.mark.parametrize(
    ('changes', 'field', 'allowed'),
    [
        ({'d_model': 18}, 'd_model', 'a multiple of 2 * num_heads (4)'),
        ({'num_heads': 3}, 'd_model', 'a multiple of 2 * num_heads (6)'),
        (
            {'num_heads': 4, 'num_kv_heads': 3},
            'num_kv_heads',
            'a divisor of num_heads (4)',
        ),
        ({'num_kv_heads': 4}, 'num_kv_heads', 'a divisor of num_heads (2)'),
        ({'moe_every': 3}, 'moe_every', '0 or a divisor of num_layers (2)'),
        ({'remat': 'some'}, 'remat', "one of 'none', 'dots', 'full'"),
        ({'rope_theta': 0.0}, 'rope_theta', 'greater than 0.0, or None'),
        ({'dtype': 'float16'}, 'dtype', "one of 'float32', 'bfloat16'"),
    ],
    ids=str,
)
def test_refused(changes, field, allowed):
    message = f'^{re.escape(f"config.model.{field} = ")}.*{re.escape(allowed)}$'
    with pytest.raises(ConfigError, match=message):
        tiny.model(changes)
