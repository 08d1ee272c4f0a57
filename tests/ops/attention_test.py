"""Attention kernels against loops, in values and gradients."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch.planning import cuda
from moe.ops import ATTENTION_KERNELS
from moe.ops.attention import splash, takes
from tests.reference.compare import assert_close
from tests.reference.routing import softmax


def draw(length, heads, kv_heads, width=32):
    rng = np.random.default_rng(length + heads)
    shapes = [(2, length, n, width) for n in (heads, kv_heads, kv_heads, heads)]
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def values_and_gradients(query, key, value, dy, causal, segments=None):
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
        if segments is not None:
            scores[segments[b][:, None] != segments[b]] = -np.inf
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


# Documents of 100, 1, 155 and 128 positions, and of 380 with padding.
SEGMENTS = np.array(
    [
        np.repeat([1, 2, 3, 4], [100, 1, 155, 128]),
        np.repeat([1, 0], [380, 4]),
    ],
    np.int32,
)


@pytest.mark.parametrize('kernel', ['xla', 'splash'])
def test_documents_see_only_themselves(kernel):
    *inputs, dy = draw(384, 4, 2)
    options = {'interpret': True} if kernel == 'splash' else {}

    def total(*inputs):
        y = ATTENTION_KERNELS[kernel](
            *inputs, jnp.asarray(SEGMENTS), is_causal=True, **options
        )
        return jnp.sum(y * dy), y

    run = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))
    gradients, y = run(*map(jnp.asarray, inputs))
    desired_y, desired = values_and_gradients(*inputs, dy, True, SEGMENTS)
    assert_close(y, desired_y, 1e-5)
    for actual, wanted in zip(gradients, desired, strict=True):
        assert_close(actual, wanted, 1e-5)


def test_documents_by_cudnn():
    # Its program, lowered without a GPU, has cuDNN's attention with a bias of
    # every pair of positions: where the mask of documents is.
    shape = jax.ShapeDtypeStruct((2, 128, 4, 64), jnp.bfloat16)
    kernel = functools.partial(ATTENTION_KERNELS['cudnn'], is_causal=True)
    segments = jax.ShapeDtypeStruct((2, 128), jnp.int32)
    lowered = lambda *inputs: (
        jax.jit(kernel)
        .trace(*inputs)
        .lower(lowering_platforms=('cuda',))
        .as_text()
    )
    with cuda.with_cudnn():
        plain = lowered(shape, shape, shape)
        apart = lowered(shape, shape, shape, segments)
    assert '__cudnn$fmhaSoftmax(' in plain
    (call,) = re.findall(r'@__cudnn\$fmhaScaleBiasSoftmax\((.*)', apart)
    assert 'tensor<2x1x128x128xbf16>' in call


def test_whether_a_kernel_takes_documents():
    def plain(query, key, value, *, is_causal):
        return query

    assert not takes(plain, 'segments')
    for name in ('xla', 'cudnn', 'splash'):
        assert takes(ATTENTION_KERNELS[name], 'segments')


def test_a_length_that_does_not_divide():
    x = jnp.zeros((1, 100, 2, 32))
    with pytest.raises(
        ValueError, match='100 positions, not a multiple of 128'
    ):
        splash(x, x, x, is_causal=True)
