"""Norms against numbers worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from moe.models.norms import LayerNorm, RMSNorm


def test_rms():
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


def test_layer():
    # The row (1, 7) has mean 4 and variance 9; epsilon 7 makes it 16.
    norm = LayerNorm(epsilon=7.0)
    x = jnp.array([[1.0, 7.0]])
    params = {'scale': jnp.array([1.0, -2.0]), 'bias': jnp.array([0.5, 1.0])}
    y = norm.apply({'params': params}, x)
    np.testing.assert_allclose(y, [[-3 / 4 + 0.5, -6 / 4 + 1]], rtol=1e-6)
    first = norm.init(jax.random.key(0), x)['params']
    np.testing.assert_array_equal(first['scale'], [1, 1])
    np.testing.assert_array_equal(first['bias'], [0, 0])
    # In bfloat16 the mean of 4096 numbers would stop growing far too early;
    # half of them are 9, half 5, the deviation is 2.
    long = jnp.tile(jnp.array([9.0, 5.0], jnp.bfloat16), 2048)[None]
    params = {'scale': jnp.ones(4096), 'bias': jnp.zeros(4096)}
    y = LayerNorm().apply({'params': params}, long)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.float32(y), np.tile([1, -1], 2048)[None])
