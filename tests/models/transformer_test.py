"""Blocks and their stack: pattern, scan, remat, norm, config checks."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.config import options
from moe.models.transformer import Stack, empty_cache
from moe.parallel.mesh import MeshConfig, make_mesh
from moe.routing import update_router_state
from tests import tiny
from tests.reference import model as reference
from tests.reference.compare import assert_close

pytestmark = pytest.mark.slow


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def inputs(*shape):
    return normal(0, *(shape or (2, 8, 16)))


@functools.lru_cache
def initial(stack):
    return tiny.parameters(stack.init, inputs())


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
    assert [scan.repeats for scan in config.scans] == [repeats]
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


# Layers 0 and 2 dense, 1 and 3 mixtures; a dense one, then two mixtures; two
# mixtures around a dense one in a scan of one repetition.
@pytest.mark.parametrize(
    'changes',
    [
        {'num_layers': 4, 'moe_every': 2},
        {'num_layers': 3, 'dense_layers': (0,)},
        {'num_layers': 3, 'dense_layers': (1,)},
    ],
    ids=str,
)
def test_equals_the_loop_over_layers(changes):
    config = tiny.model(changes)
    stack, x = Stack(config, causal=True), inputs()
    params = initial(stack)
    actual, cache, aux = jax.jit(lambda p: stack.apply({'params': p}, x))(
        params
    )
    assert cache is None
    double = jax.tree.map(np.float64, params)
    desired, mixtures = reference.stack(
        np.float64(x), double, tiny.oracle_options(config)
    )
    assert_close(actual, desired, 1e-5)
    for name in ('load_balance', 'router_z'):
        losses = [m.losses[name] for m in mixtures]
        assert_close(aux.losses[name], losses, 1e-5)
    for name in mixtures[0].stats:
        stats = np.stack([m.stats[name] for m in mixtures])
        assert_close(aux.stats[name], stats, 1e-5)


def test_layers_and_experts_differ_at_the_start():
    config = tiny.model({'num_layers': 4, 'moe_every': 2})
    init = jax.jit(Stack(config, causal=True).init)
    params = jax.device_get(init(jax.random.key(0), inputs())['params'])
    layers = params['layers']
    mixture, dense = layers['block_1']['moe'], layers['block_0']['mlp']
    weights = {'router': mixture['router'], **mixture['experts'], 'mlp': dense}
    weights['attention'] = layers['block_0']['attention']
    for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
        assert leaf.shape[0] == 2, path
        assert np.mean(np.abs(leaf[0] - leaf[1]) > 1e-4) > 0.9, path
    for name, leaf in mixture['experts'].items():
        experts = leaf.reshape(-1, *leaf.shape[2:])  # L * E
        for a, b in zip(*np.triu_indices(len(experts), 1), strict=True):
            different = np.abs(experts[a] - experts[b]) > 1e-4
            assert np.mean(different) > 0.9, (name, a, b)


def objective(stack, params, coefficients, x):
    y, _, aux = stack.apply({'params': params}, x)
    total = jnp.sum(jnp.sin(y))
    for name, value in (aux.losses if aux else {}).items():
        chex.assert_shape(value, (2,))
        total += coefficients.get(name, 0) * jnp.sum(value)
    return total


@functools.lru_cache
def gradient(remat):
    """Value and gradients at coefficients of the auxiliary losses."""
    stack = Stack(tiny.model({'remat': remat}), causal=True)
    function = jax.jit(jax.value_and_grad(functools.partial(objective, stack)))
    params = initial(Stack(tiny.model(), causal=True))

    def run(balance, z):
        given = {'load_balance': balance, 'router_z': z}
        return function(params, given, inputs())

    return run


@pytest.mark.parametrize('remat', ['dots', 'hidden', 'full'])
def test_remat_changes_no_number(remat):
    desired, actual = (gradient(r)(1.0, 1.0) for r in ('none', remat))
    names = ('value', 'gradients')
    assert_close(
        dict(zip(names, actual, strict=True)),
        dict(zip(names, desired, strict=True)),
        2e-6,
    )


def test_auxiliary_losses_reach_the_routers():
    # Two mixture layers inside a scan, computed again in the backward pass: a
    # coefficient adds that multiple of the loss's own gradient to the router
    # of every layer.
    def router(balance, z):
        _, grads = gradient('full')(balance, z)
        return np.float64(grads['layers']['block_0']['moe']['router'])

    plain = router(0.0, 0.0)
    balance, z = router(1.0, 0.0) - plain, router(0.0, 1.0) - plain
    for extra in (balance, z):
        assert np.all(np.max(np.abs(extra), axis=(1, 2)) > 1e-4)
    assert np.max(np.abs(balance - z)) > 1e-4
    assert_close(router(3.0, 0.5), plain + 3 * balance + 0.5 * z, 1e-5)


def test_remat_keeps_less():
    # Numbers the forward pass leaves for the backward pass, shapes alone.
    def kept(remat, **changes):
        config = tiny.model({'remat': remat, **changes})
        stack = Stack(config, causal=True)
        given = {'load_balance': 1.0, 'router_z': 1.0}
        function = lambda p, x: objective(stack, p, given, x)
        params = jax.eval_shape(stack.init, jax.random.key(0), inputs())
        backward = jax.eval_shape(
            lambda p, x: jax.vjp(function, p, x)[1], params['params'], inputs()
        )
        return sum(leaf.size for leaf in jax.tree.leaves(backward))

    sizes = {remat: kept(remat) for remat in ('none', 'dots', 'full')}
    assert sizes['full'] < sizes['dots'] < sizes['none']
    # Of a dense stack 'hidden' keeps two products of a gated feed-forward and
    # what attention returns, for each position of each layer.
    hidden, full = (kept(remat, moe_every=0) for remat in ('hidden', 'full'))
    c, positions = tiny.model(), math.prod(inputs().shape[:2])
    width = 2 * options(c.dense)['hidden'] + c.d_model
    assert hidden - full == c.num_layers * positions * width


@pytest.mark.parametrize(
    ('changes', 'devices', 'loops'),
    [
        ({'num_layers': 8}, 1, False),
        ({'num_layers': 9}, 1, True),
        ({'num_layers': 8, 'remat': 'full'}, 1, True),
        # CPU devices that stand for others.
        ({'num_layers': 8}, 2, True),
    ],
)
def test_few_layers_on_one_cpu_device_are_no_loop(changes, devices, loops):
    config = tiny.model({'moe_every': 0, **changes})
    stack = Stack(config, causal=True)
    function = jax.jit(lambda params, x: stack.apply(params, x)[0])
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:devices])):
        shapes = jax.eval_shape(stack.init, jax.random.key(0), inputs())
        text = function.lower(shapes, inputs()).as_text()
    assert ('stablehlo.while' in text) == loops


def test_positions_are_seen_through_the_rotation_alone():
    # Without a causal mask and without rotation a stack cannot tell the order.
    config = tiny.model({'rope': None, 'moe_every': 0})
    stack, x = Stack(config, causal=False), inputs()
    order = [3, 1, 0, 2, 7, 5, 6, 4]
    apply = jax.jit(lambda x: stack.apply({'params': initial(stack)}, x)[0])
    np.testing.assert_allclose(apply(x)[:, order], apply(x[:, order]), 0, 1e-5)


def test_scans_of_several_patterns():
    # A scan of a mixture and a dense layer, then one of two mixtures. All
    # differ at the start, as do their draws in training.
    config = tiny.model(
        {
            'num_layers': 4,
            'dense_layers': (1,),
            'moe.jitter': 0.5,
            'moe.router.name': 'sigmoid',
        }
    )
    stack, x = Stack(config, causal=True), inputs()
    assert [(scan.name, scan.repeats) for scan in config.scans] == [
        ('layers_0', 1),
        ('layers_1', 2),
    ]
    init = jax.jit(stack.init)(jax.random.key(0), x)
    first, second = (init['params'][f'layers_{i}'] for i in range(2))
    routers = [first['block_0']['moe']['router'][0]]
    routers += list(second['block_0']['moe']['router'])
    assert 'moe' not in first['block_1']
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.mean(np.abs(routers[a] - routers[b]) > 1e-4) > 0.9

    # Layers that add nothing, with the same router: only their draws differ.
    def same(path, leaf):
        name = path[-1].key
        if name in ('out', 'down'):
            return jnp.zeros_like(leaf)
        return (
            jnp.broadcast_to(routers[0], leaf.shape)
            if name == 'router'
            else leaf
        )

    same = jax.tree_util.tree_map_with_path(same, init)
    apply = jax.jit(functools.partial(stack.apply, train=True, record=True))
    _, _, aux = apply(same, x, rngs={'router': jax.random.key(1)})
    draws = np.asarray(aux.routing.logits)
    assert draws.shape == (3, 2, 8, 4)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.mean(np.abs(draws[a] - draws[b]) > 1e-4) > 0.9
    # The states move by what their own layers counted: 16 tokens' 2 choices.
    state = update_router_state(init['router_state'], aux.state_statistics)
    for number, repeats in ((0, 1), (1, 2)):
        bias = state[f'layers_{number}']['block_0']['moe']['bias']
        assert bias.shape == (repeats, 4)
        load = aux.stats['load'][number : number + repeats]
        signs = np.sign(1 - load)
        desired = 1e-3 * (signs - np.mean(signs, axis=1, keepdims=True))
        np.testing.assert_allclose(bias, desired, atol=1e-9)


def test_cache_of_several_scans():
    # Five positions, then three that see them, are the pass over all eight.
    config = tiny.model({'num_layers': 3, 'dense_layers': (0,)})
    stack, x = Stack(config, causal=True), inputs()
    apply = jax.jit(functools.partial(stack.apply, {'params': initial(stack)}))
    cache = empty_cache(config, batch=2, length=9)
    before, cache, _ = apply(x[:, :5], cache=cache)
    after, cache, _ = apply(x[:, 5:], cache=cache, start=5)
    assert [part.key.shape[0] for part in cache] == [1, 2]
    both = np.concatenate([before, after], axis=1)
    np.testing.assert_allclose(both, apply(x)[0], atol=2e-5)


def test_dense_stack_has_no_aux():
    stack = Stack(tiny.model({'moe_every': 0}), causal=True)
    made = jax.eval_shape(stack.init_with_output, jax.random.key(0), inputs())
    assert made[0][2] is None


def test_windows_by_layer():
    # Every other layer of four: one scan of two blocks, of which the first has
    # the window; so each position of the second half sees the first token
    # through the others alone.
    changes = {'num_layers': 4, 'sliding_window': 3, 'window_layers': (0, 2)}
    config = tiny.model(changes)
    assert config.windows == (3, None, 3, None)
    (scan,) = config.scans
    assert [kind.windowed for kind in scan.kinds] == [True, False]
    assert scan.repeats == 2
    every = tiny.model({'num_layers': 2, 'sliding_window': 3, 'moe_every': 0})
    stack = Stack(every, causal=True)
    apply = jax.jit(lambda x: stack.apply({'params': initial(stack)}, x)[0])
    x, other = inputs(), inputs()
    other[:, 0] += 1.0
    # Two layers of windows of three reach back by four positions.
    difference = np.max(np.abs(apply(x) - apply(other)), axis=(0, 2))
    assert np.all(difference[:5] > 1e-4)
    assert np.all(difference[5:] == 0)


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
            assert (leaf.shape, leaf.dtype) == ((2, 3, 1, 7, 8), jnp.bfloat16)
            assert not np.any(leaf)
    # One dense layer, then three mixtures.
    config = tiny.model({'num_layers': 4, 'dense_layers': (0,)})
    cache = empty_cache(config, batch=3, length=7)
    assert [part.key.shape for part in cache] == [
        (repeats, 3, 2, 7, 8) for repeats in (1, 3)
    ]
