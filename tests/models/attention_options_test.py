"""Options of attention against loops: values, gradients, cache, documents."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.models.attention import Attention, Cache
from moe.models.rope import ROPE_SCALINGS, Rope
from tests import tiny
from tests.reference.attention import attention
from tests.reference.compare import assert_close

pytestmark = pytest.mark.slow

BATCH, LENGTH, WIDTH = 2, 7, 10
YARN = {'factor': 4.0, 'original_length': 16}
# Two documents, and one with two positions of padding.
SEGMENTS = np.array([[1, 1, 1, 2, 2, 2, 2], [1, 1, 1, 1, 1, 0, 0]], np.int32)

# Options of the layer, and of the loop where they are called otherwise.
CASES = {
    'head width, norm by head, biases, a part turns': (
        {
            'head_dim': 8,
            'qk_norm': 'head',
            'bias': 'qkv',
            'epsilon': 0.1,
            'rope': Rope(50.0, share=0.5),
        },
        {'rope': {'theta': 50.0, 'share': 0.5}},
    ),
    'norm over the width, clip': (
        {
            'head_dim': 4,
            'qk_norm': 'width',
            'clip': 0.7,
            'epsilon': 0.1,
            'rope': Rope(50.0),
        },
        {'rope': {'theta': 50.0}},
    ),
    'scale, all biases, neighbours turn, yarn': (
        {
            'head_dim': 8,
            'scale': 0.9,
            'bias': 'all',
            'rope': Rope(
                50.0,
                interleaved=True,
                scaling=functools.partial(ROPE_SCALINGS['yarn'], **YARN),
            ),
        },
        {
            'rope': {
                'theta': 50.0,
                'interleaved': True,
                'scaling': {'name': 'yarn', **YARN},
            }
        },
    ),
    'window, sinks': (
        {'head_dim': 4, 'window': 3, 'sinks': True, 'rope': None},
        {},
    ),
}


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


X, DY = normal(1, BATCH, LENGTH, WIDTH), normal(2, BATCH, LENGTH, WIDTH)


def layer_of(case, **more):
    return Attention(num_heads=4, num_kv_heads=2, **CASES[case][0], **more)


@functools.cache
def initial(case):
    init = layer_of(case).init
    return tiny.parameters(init, jnp.zeros((1, 1, WIDTH)), scale=0.5)


def oracle(case, params, x=X, **more):
    """The loop in float64, of the layer's options."""
    given = {**CASES[case][0], **CASES[case][1], **more}
    for name in ('head_dim', 'bias', 'sinks'):
        given.pop(name, None)
    double = jax.tree.map(np.float64, params)
    return attention(np.float64(x), double, **given)


@pytest.mark.parametrize('documents', [False, True])
@pytest.mark.parametrize('case', CASES)
def test_values_and_gradients(case, documents):
    layer, params = layer_of(case), initial(case)
    segments = SEGMENTS if documents else None

    def total(params, x):
        y, _ = layer.apply({'params': params}, x, segments=segments)
        return jnp.sum(y * DY), y

    run = jax.jit(jax.grad(total, (0, 1), has_aux=True))
    gradients, y = run(params, X)
    assert_close(y, oracle(case, params, segments=segments), 1e-5)
    # Along a random direction in each array the loop's slope is the gradient's
    # share there.
    given = (params, X)
    leaves, tree = jax.tree.flatten(given)
    for i, (leaf, gradient) in enumerate(
        zip(leaves, jax.tree.leaves(gradients), strict=True)
    ):
        direction = normal(i, *leaf.shape)

        def at(step, i=i, direction=direction):
            moved = [np.float64(other) for other in leaves]
            moved[i] = moved[i] + step * direction
            params, x = jax.tree.unflatten(tree, moved)
            return np.sum(oracle(case, params, x, segments=segments) * DY)

        slope = (at(1e-6) - at(-1e-6)) / 2e-6
        np.testing.assert_allclose(
            np.sum(np.float64(gradient) * direction), slope, 1e-3, 1e-4
        )


@pytest.mark.parametrize('case', CASES)
def test_cached_equals_uncached(case):
    # A prefix of three, then one by one; the cache has room for two more.
    layer, params = layer_of(case), initial(case)
    run = jax.jit(lambda x, *args: layer.apply({'params': params}, x, *args))
    empty = jnp.zeros((BATCH, 2, LENGTH + 2, CASES[case][0]['head_dim']))
    y, cache = run(X[:, :3], Cache(empty, empty), jnp.int32(0))
    parts = [y]
    for start in range(3, LENGTH):
        y, cache = run(X[:, start : start + 1], cache, jnp.int32(start))
        parts.append(y)
    assert_close(np.concatenate(parts, axis=1), oracle(case, params), 1e-5)


@pytest.mark.parametrize('case', CASES)
def test_in_bfloat16(case):
    layer, params = layer_of(case, dtype=jnp.bfloat16), initial(case)
    y, _ = jax.jit(lambda p: layer.apply({'params': p}, X))(params)
    assert y.dtype == jnp.bfloat16
    # 8 bits, and a few roundings before the softmax and after it.
    assert_close(y, oracle(case, params), 4e-2)


def test_what_is_off_costs_nothing():
    # Two heads of 5 numbers without positions, as one would write it.
    layer = Attention(num_heads=2, num_kv_heads=2, rope=None)
    params = tiny.parameters(layer.init, X)
    assert set(params) == {'query', 'key', 'value', 'out'}

    def plain(params, x):
        rows = x.reshape(-1, WIDTH)
        query, key, value = (
            (rows @ params[name].reshape(WIDTH, -1)).reshape(2, 7, 2, 5)
            for name in ('query', 'key', 'value')
        )
        y = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        y = y.reshape(-1, WIDTH) @ params['out'].reshape(-1, WIDTH)
        return y.reshape(x.shape)

    def lowered(function):
        traced = jax.jit(function).trace(params, X)
        return traced.lower(lowering_platforms=('cuda',)).cost_analysis()

    apply = lambda p, x: layer.apply({'params': p}, x)[0]
    desired = lowered(plain)
    for what in ('flops', 'transcendentals'):
        assert lowered(apply)[what] == desired[what], what
