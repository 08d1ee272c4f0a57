"""Attention kernels against loops, in values and gradients."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch.planning import cuda
from moe.ops import ATTENTION_KERNELS
from moe.ops.attention import attend, splash, takes, within
from tests.reference.compare import assert_close
from tests.reference.routing import softmax


def draw(length, heads, kv_heads, width=32):
    rng = np.random.default_rng(length + heads)
    shapes = [(2, length, n, width) for n in (heads, kv_heads, kv_heads, heads)]
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def values_and_gradients(
    query,
    key,
    value,
    dy,
    causal,
    segments=None,
    sinks=None,
    scale=None,
    window=None,
):
    """By heads, in float64: y, and the gradients of sum(dy * y).

    Those are of the queries, keys and values, and of the sinks if there are.
    """
    query, key, value, dy = (
        np.asarray(x, np.float64) for x in (query, key, value, dy)
    )
    shared = query.shape[2] // key.shape[2]
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    y = np.zeros(dy.shape)
    gradients = [np.zeros(x.shape) for x in (query, key, value)]
    if sinks is not None:
        gradients.append(np.zeros(sinks.shape))
    order = np.arange(query.shape[1])
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
        if window is not None:
            scores[order[:, None] - order >= window] = -np.inf
        if sinks is not None:
            sink = np.full((len(q), 1), np.float64(sinks[h]))
            scores = np.concatenate([scores, sink], axis=1)
        p = np.stack([softmax(row) for row in scores])
        at_sink, p = p[:, len(q) :], p[:, : len(q)]
        y[b, :, h] = p @ v
        dp = dy[b, :, h] @ v.T
        ds = p * (dp - (p * dp).sum(1, keepdims=True))
        gradients[0][b, :, h] = scale * ds @ k
        gradients[1][b, :, h // shared] += scale * ds.T @ q
        gradients[2][b, :, h // shared] += p.T @ dy[b, :, h]
        if sinks is not None:
            gradients[3][h] -= np.sum(at_sink[:, 0] * (p * dp).sum(1))
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


# 150 positions are neither a block of the TPU's kernel nor one more.
OPTIONS = {
    'window, scale': {'window': 150, 'scale': 0.3},
    'narrow values, window': {'width': 16, 'window': 2},
    'sinks': {'sinks': True},
    'window, sinks, documents': {
        'window': 150,
        'sinks': True,
        'segments': True,
    },
    'narrow values, scale, documents': {
        'width': 16,
        'scale': 0.3,
        'segments': True,
    },
}


@pytest.mark.parametrize(
    ('kernel', 'case'),
    [
        *(('xla', case) for case in OPTIONS),
        ('splash', 'window, sinks, documents'),
        ('splash', 'narrow values, scale, documents'),
    ],
)
def test_options(kernel, case):
    given = dict(OPTIONS[case])
    query, key, value, dy = draw(384, 4, 2)
    width = given.pop('width', value.shape[-1])
    inputs = [query, key, value[..., :width]]
    dy = dy[..., :width]
    sinks = None
    if given.pop('sinks', False):
        sinks = np.float32([-1.0, 0.5, 6.0, 2.0])
    segments = SEGMENTS if given.pop('segments', False) else None
    interpreted = {'interpret': True} if kernel == 'splash' else {}

    def total(inputs, sinks):
        y = ATTENTION_KERNELS[kernel](
            *inputs, segments, sinks, is_causal=True, **given, **interpreted
        )
        return jnp.sum(y * dy), y

    run = jax.jit(jax.grad(total, (0, 1), has_aux=True))
    (gradients, of_sinks), y = run(inputs, sinks)
    desired_y, desired = values_and_gradients(
        *inputs, dy, True, segments, sinks, **given
    )
    assert_close(y, desired_y, 1e-5)
    actual = [*gradients, *([] if sinks is None else [of_sinks])]
    for a, wanted in zip(actual, desired, strict=True):
        assert_close(a, wanted, 1e-5)


def test_values_of_another_width_off_the_cpu():
    # What xla takes on other platforms: the general form, in bfloat16 too.
    *inputs, dy = draw(8, 4, 2)
    inputs[2], dy = inputs[2][..., :16], dy[..., :16]
    order = jnp.arange(8)

    @functools.partial(jax.jit, static_argnums=0)
    def all_of(dtype):
        given = [jnp.asarray(x, dtype) for x in inputs]
        seen = within(order[:, None], order, 3)[None, None]
        y, pullback = jax.vjp(lambda *x: attend(*x, seen, scale=0.4), *given)
        return y, *pullback(jnp.asarray(dy, dtype))

    y, gradients = values_and_gradients(*inputs, dy, True, scale=0.4, window=3)
    for dtype, tolerance in ((jnp.float32, 1e-5), (jnp.bfloat16, 3e-2)):
        for actual, wanted in zip(all_of(dtype), (y, *gradients), strict=True):
            assert actual.dtype == dtype
            assert_close(actual.astype(jnp.float32), wanted, tolerance)


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
    with cuda.with_cudnn((9, 0)):
        plain = lowered(shape, shape, shape)
        apart = lowered(shape, shape, shape, segments)
    assert '__cudnn$fmhaSoftmax(' in plain
    (call,) = re.findall(r'@__cudnn\$fmhaScaleBiasSoftmax\((.*)', apart)
    assert 'tensor<2x1x128x128xbf16>' in call
    # A window and a scale are fields of the call, and narrow values are padded.
    kernel = functools.partial(kernel, window=33, scale=0.25)
    narrow = jax.ShapeDtypeStruct((2, 128, 4, 32), jnp.bfloat16)
    with cuda.with_cudnn((9, 0)):
        text = lowered(shape, shape, narrow)
    (call,) = re.findall(r'@__cudnn\$fmhaSoftmax\(.*', text)
    assert re.search(r'sliding_window_length\\22: 33\b', call)
    assert re.search(r'fmha_scale\\22: 0\.25\b', call)
    assert text.count('tensor<2x128x4x64xbf16>') > 2
    assert text.count('tensor<2x128x4x32xbf16>') > 1
    # Heads of DeepSeek-V3: Hopper has them, Ampere does not.
    wide = jax.ShapeDtypeStruct((2, 128, 4, 192), jnp.bfloat16)
    with cuda.with_cudnn((9, 0)):
        assert '__cudnn$fmhaSoftmax(' in lowered(wide, wide, shape)
    with (
        cuda.with_cudnn((8, 0)),
        pytest.raises(NotImplementedError, match='must be <= 128'),
    ):
        lowered(wide, wide, wide)


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
