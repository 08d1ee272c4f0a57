"""Attention kernels against loops, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.ops import ATTENTION_KERNELS
from moe.ops.attention import splash
from tests.reference.compare import assert_close
from tests.reference.routing import softmax


def draw(length, heads, kv_heads, width=32):
    rng = np.random.default_rng(length + heads)
    shapes = [(2, length, n, width) for n in (heads, kv_heads, kv_heads, heads)]
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def values_and_gradients(query, key, value, dy, causal):
    """By heads, in float64: y, and the gradients of sum(dy * y)."""
    query, key, value, dy = (
        np.asarray(x, np.float64) for x in (query, key, value, dy)
    )
    shared = query.shape[2] // key.shape[2]
    scale = query.shape[-1] ** -0.5
    y = np.zeros(query.shape)
    gradients = [np.zeros(x.shape) for x in (query, key, value)]
    for b, h in np.ndindex(query.shape[0], query.shape[2]):
        q, k, v = (
            query[b, :, h],
            key[b, :, h // shared],
            value[b, :, h // shared],
        )
        scores = scale * q @ k.T
        if causal:
            scores[np.triu_indices(len(q), 1)] = -np.inf
        p = np.stack([softmax(row) for row in scores])
        y[b, :, h] = p @ v
        dp = dy[b, :, h] @ v.T
        ds = p * (dp - (p * dp).sum(1, keepdims=True))
        gradients[0][b, :, h] = scale * ds @ k
        gradients[1][b, :, h // shared] += scale * ds.T @ q
        gradients[2][b, :, h // shared] += p.T @ dy[b, :, h]
    return y, gradients


@pytest.mark.parametrize('causal', [True, False])
@pytest.mark.parametrize('kernel', ['xla', 'splash'])
def test_kernels(kernel, causal):
    # 384 positions are three blocks of the TPU's kernel, interpreted here.
    *inputs, dy = draw(384, 4, 2)
    options = {'interpret': True} if kernel == 'splash' else {}

    def total(*inputs):
        y = ATTENTION_KERNELS[kernel](*inputs, is_causal=causal, **options)
        return jnp.sum(y * dy), y

    run = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))
    gradients, y = run(*map(jnp.asarray, inputs))
    desired_y, desired = values_and_gradients(*inputs, dy, causal)
    assert_close(y, desired_y, 1e-5)
    for actual, wanted in zip(gradients, desired, strict=True):
        assert_close(actual, wanted, 1e-5)


def test_a_length_that_does_not_divide():
    x = jnp.zeros((1, 100, 2, 32))
    with pytest.raises(
        ValueError, match='100 positions, not a multiple of 128'
    ):
        splash(x, x, x, is_causal=True)
