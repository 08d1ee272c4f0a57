"""Attention and rotary positions against loops, with a cache and without."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.models.attention import Attention, Cache
from moe.models.rope import Rope, rotate
from tests import tiny
from tests.reference import attention as reference
from tests.reference.compare import assert_close

pytestmark = pytest.mark.slow

WIDTH = 16


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@functools.lru_cache
def initial(layer):
    return tiny.parameters(layer.init, jnp.zeros((1, 1, WIDTH)))


@functools.lru_cache
def compiled(layer):
    return jax.jit(lambda p, x, *args: layer.apply({'params': p}, x, *args))


@pytest.mark.parametrize('causal', [True, False])
@pytest.mark.parametrize(
    ('num_heads', 'num_kv_heads', 'theta'),
    [(2, 2, 10_000.0), (4, 2, 30.0), (4, 1, None)],
)
def test_equals_the_loop(num_heads, num_kv_heads, theta, causal):
    rope = theta and Rope(theta)
    layer = Attention(num_heads, num_kv_heads, causal, rope)
    params, x = initial(layer), normal(4, 2, 5, WIDTH)
    head = WIDTH // num_heads
    assert {name: p.shape for name, p in params.items()} == {
        'query': (WIDTH, num_heads, head),
        'key': (WIDTH, num_kv_heads, head),
        'value': (WIDTH, num_kv_heads, head),
        'out': (num_heads, head, WIDTH),
    }
    actual, cache = compiled(layer)(params, x)
    assert cache is None
    double = {name: np.float64(p) for name, p in params.items()}
    desired = reference.attention(
        np.float64(x), double, causal=causal, rope=theta and {'theta': theta}
    )
    assert_close(actual, desired, 5e-6)


@pytest.mark.parametrize('chunks', [(3, 1, 4), (8,), (1,) * 8], ids=str)
def test_cached_equals_uncached(chunks):
    # Eight positions in chunks, into a cache with room for ten.
    layer = Attention(num_heads=4, num_kv_heads=2)
    params, x = initial(layer), normal(5, 2, 8, WIDTH)
    desired, _ = compiled(layer)(params, x)
    empty = jnp.zeros((2, 2, 10, 4))
    cache, start, parts = Cache(empty, empty), 0, []
    for size in chunks:
        y, cache = compiled(layer)(
            params, x[:, start : start + size], cache, jnp.int32(start)
        )
        parts.append(y)
        start += size
    assert_close(np.concatenate(parts, axis=1), np.asarray(desired), 2e-6)
    assert np.all(np.asarray(cache.key[:, :, 8:]) == 0)
    # What was kept are the rotated keys and the values, of two heads.
    value = np.einsum('bsd,dnh->bnsh', x, params['value'])
    assert_close(cache.value[:, :, :8], value, 2e-6)
    key = np.einsum('bsd,dnh->bsnh', x, params['key'])
    key = rotate(jnp.asarray(key), jnp.arange(8), Rope())
    key = np.swapaxes(key, 1, 2)
    assert_close(cache.key[:, :, :8], key, 2e-6)


def test_each_row_goes_on_from_a_position_of_its_own():
    # Rows of 3 and 5 positions, padded on the right; then two more of each.
    layer = Attention(num_heads=4, num_kv_heads=2)
    params, x = initial(layer), normal(7, 2, 7, WIDTH)
    empty = jnp.zeros((2, 2, 8, 4))
    padded = x[:, :5].copy()
    padded[0, 3:] = 1e3
    run = compiled(layer)
    _, cache = run(params, padded, Cache(empty, empty), jnp.int32(0))
    start = np.array([3, 5], np.int32)
    more = np.stack([x[0, 3:5], x[1, 5:7]])
    y, _ = run(params, more, cache, start)
    for row, size in enumerate(start):
        desired, _ = run(params, x[row : row + 1, : size + 2])
        assert_close(y[row], np.asarray(desired)[0, size:], 2e-6)


def test_dtype_of_the_computation():
    layer = Attention(num_heads=2, num_kv_heads=2, dtype=jnp.bfloat16)
    params, x = initial(layer), normal(6, 1, 4, WIDTH)
    assert {p.dtype for p in params.values()} == {jnp.dtype('float32')}
    y, _ = compiled(layer)(params, x)
    assert y.dtype == jnp.bfloat16
    wide, _ = compiled(Attention(num_heads=2, num_kv_heads=2))(params, x)
    # A bfloat16 has 8 bits: a few roundings of 2^-9 each.
    assert_close(y, np.asarray(wide), 2e-2)


def test_scale_of_the_output_projection():
    def start(**options):
        layer = Attention(num_heads=2, num_kv_heads=1, **options)
        init = jax.jit(layer.init)
        return init(jax.random.key(0), jnp.zeros((1, 1, WIDTH)))['params']

    whole, part = start(), start(out_scale=0.25)
    np.testing.assert_allclose(part['out'], 0.25 * whole['out'], rtol=1e-6)
    np.testing.assert_array_equal(part['query'], whole['query'])
    # 256 entries of variance 1 / fan-in, of H * h = D = 16: .25 +- 5%.
    np.testing.assert_allclose(np.std(whole['out']), 0.25, rtol=0.15)
