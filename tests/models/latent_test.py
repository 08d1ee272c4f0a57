"""Latent attention against loops: values, gradients, cache, documents."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.models.attention import Cache
from moe.models.latent import Latent, LatentAttention
from moe.models.rope import ROPE_SCALINGS, Rope
from moe.models.transformer import Stack, empty_cache
from moe.parallel import MeshConfig, make_mesh
from tests import tiny
from tests.reference.compare import assert_close
from tests.reference.latent import attention

pytestmark = pytest.mark.slow

BATCH, LENGTH, WIDTH, HEADS = 2, 6, 10, 2
# As many numbers of each kind as of no other.
WIDTHS = {'kv_rank': 7, 'nope_dim': 3, 'rope_dim': 4, 'value_dim': 5}
YARN = {'factor': 4.0, 'original_length': 16}
SEGMENTS = np.array([[1, 1, 1, 2, 2, 2], [1, 1, 1, 1, 0, 0]], np.int32)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


X, DY = normal(1, BATCH, LENGTH, WIDTH), normal(2, BATCH, LENGTH, WIDTH)


def case(low_rank, **more):
    """A layer, and the arguments of the loop."""
    scaling = functools.partial(ROPE_SCALINGS['yarn'], **YARN)
    rope = Rope(50.0, interleaved=True, scaling=scaling)
    scale = 0.6 if low_rank else None
    layer = LatentAttention(
        num_heads=HEADS,
        num_kv_heads=HEADS,
        rope=rope,
        scale=scale,
        latent=Latent(q_rank=8 if low_rank else None, **WIDTHS),
        **more,
    )
    given = {
        'nope_dim': 3,
        'scale': scale,
        'rope': {
            'theta': 50.0,
            'interleaved': True,
            'scaling': {'name': 'yarn', **YARN},
        },
    }
    return layer, given


@functools.cache
def initial(low_rank):
    init = case(low_rank)[0].init
    return tiny.parameters(init, jnp.zeros((1, 1, WIDTH)), scale=0.5)


def oracle(low_rank, params, x=X, **more):
    double = jax.tree.map(np.float64, params)
    return attention(np.float64(x), double, **case(low_rank)[1], **more)


def test_parameters():
    shapes = jax.tree.map(np.shape, initial(True))
    assert shapes == {
        'query_down': (10, 8),
        'query_down_norm': {'scale': (8,)},
        'query_up': (8, 2, 7),
        'key_value_down': (10, 7),
        'key_value_norm': {'scale': (7,)},
        'key_rope': (10, 4),
        'key_up': (7, 2, 3),
        'value_up': (7, 2, 5),
        'out': (2, 5, 10),
    }
    direct = jax.tree.map(np.shape, initial(False))
    assert direct['query'] == (10, 2, 7)
    assert set(shapes) - set(direct) == {
        'query_down',
        'query_down_norm',
        'query_up',
    }


@pytest.mark.parametrize(
    ('low_rank', 'documents'), [(True, False), (False, True)]
)
def test_values_and_gradients(low_rank, documents):
    (layer, _), params = case(low_rank), initial(low_rank)
    segments = SEGMENTS if documents else None

    def total(params, x):
        y, _ = layer.apply({'params': params}, x, segments=segments)
        return jnp.sum(y * DY), y

    gradients, y = jax.jit(jax.grad(total, (0, 1), has_aux=True))(params, X)
    assert_close(y, oracle(low_rank, params, segments=segments), 1e-5)
    # Along a random direction in each array the loop's slope is the gradient's
    # share there.
    leaves, tree = jax.tree.flatten((params, X))
    for i, (leaf, gradient) in enumerate(
        zip(leaves, jax.tree.leaves(gradients), strict=True)
    ):
        direction = normal(i, *leaf.shape)

        def at(step, i=i, direction=direction):
            moved = [np.float64(other) for other in leaves]
            moved[i] = moved[i] + step * direction
            params, x = jax.tree.unflatten(tree, moved)
            return np.sum(oracle(low_rank, params, x, segments=segments) * DY)

        slope = (at(1e-6) - at(-1e-6)) / 2e-6
        np.testing.assert_allclose(
            np.sum(np.float64(gradient) * direction), slope, 1e-3, 1e-4
        )


@pytest.mark.parametrize('low_rank', [True, False])
def test_decoding_from_what_is_kept(low_rank):
    # A prefix of three, then one by one; the cache has room for two more. It
    # has 4 + 7 numbers a position, and no heads.
    (layer, _), params = case(low_rank), initial(low_rank)
    run = jax.jit(lambda x, *args: layer.apply({'params': params}, x, *args))
    empty = [jnp.zeros((BATCH, 1, LENGTH + 2, n)) for n in (4, 7)]
    y, cache = run(X[:, :3], Cache(*empty), jnp.int32(0))
    parts = [y]
    for start in range(3, LENGTH):
        y, cache = run(X[:, start : start + 1], cache, jnp.int32(start))
        parts.append(y)
    assert_close(np.concatenate(parts, axis=1), oracle(low_rank, params), 1e-5)


def test_in_bfloat16():
    layer, _ = case(True, dtype=jnp.bfloat16)
    y, _ = jax.jit(lambda p: layer.apply({'params': p}, X))(initial(True))
    assert y.dtype == jnp.bfloat16
    assert_close(y, oracle(True, initial(True)), 4e-2)


def test_over_devices():
    # Two shares of heads, two of the sequences.
    layer, _ = case(True)
    mesh = make_mesh(
        MeshConfig(replica=1, data=2, fsdp=1, expert=1, tensor=2),
        jax.devices()[:4],
    )
    with jax.set_mesh(mesh):
        run = jax.jit(lambda p: layer.apply({'params': p}, X)[0])
        y = run(initial(True))
    assert_close(y, oracle(True, initial(True)), 1e-5)


def test_stack_has_its_cache():
    widths = {'kv_rank': 6, 'nope_dim': 4, 'rope_dim': 2, 'value_dim': 3}
    config = tiny.model({'latent': widths, 'num_kv_heads': 2, 'moe_every': 0})
    (cache,) = empty_cache(config, batch=3, length=5)
    assert cache.key.shape == (2, 3, 1, 5, 2)
    assert cache.value.shape == (2, 3, 1, 5, 6)
    stack = Stack(config, causal=True)
    x = np.zeros((3, 1, 16), np.float32)
    params = jax.eval_shape(stack.init, jax.random.key(0), x)
    _, new, _ = jax.eval_shape(
        lambda v: stack.apply(v, x, cache=(cache,), start=2), params
    )
    assert jax.tree.map(np.shape, new) == jax.tree.map(np.shape, (cache,))
