"""Attention with the heads first is jax's own, in values and gradients."""

import jax
import jax.numpy as jnp
import pytest

from moe.ops.heads_first import heads_first
from tests.reference.compare import assert_close


@pytest.mark.parametrize('causal', [True, False])
@pytest.mark.parametrize(
    ('heads', 'kv_heads', 'dtype', 'tolerance'),
    [
        (4, 4, jnp.float32, 1e-5),
        (6, 2, jnp.float32, 1e-5),
        (2, 1, jnp.bfloat16, 2e-2),
    ],
)
def test_as_jax_has_it(causal, heads, kv_heads, dtype, tolerance):
    keys = jax.random.split(jax.random.key(heads), 4)
    shapes = [(2, 7, n, 8) for n in (heads, kv_heads, kv_heads, heads)]
    *inputs, dy = (
        jax.random.normal(k, shape, dtype)
        for k, shape in zip(keys, shapes, strict=True)
    )

    def all_of(attention):
        y, pullback = jax.vjp(
            lambda *x: attention(*x, is_causal=causal), *inputs
        )
        return y, *pullback(dy)

    desired = all_of(jax.nn.dot_product_attention)
    for actual, wanted in zip(all_of(heads_first), desired, strict=True):
        assert (actual.dtype, actual.shape) == (dtype, wanted.shape)
        wanted = wanted.astype(jnp.float32)
        assert_close(actual.astype(jnp.float32), wanted, tolerance)
    y = heads_first(*inputs, is_causal=causal)
    wanted = desired[0].astype(jnp.float32)
    assert_close(y.astype(jnp.float32), wanted, tolerance)


def test_no_scores_are_kept_but_the_softmax():
    # Values, gradients, keys turned, and three times the scores: the softmax,
    # its gradient, and one of them turned or not yet masked.
    batch, length, heads, width = 4, 64, 2, 4
    scores = 4 * batch * heads * length**2
    x = jnp.zeros((batch, length, heads, width))

    def step(query, key, value, dy):
        y, pullback = jax.vjp(
            lambda *x: heads_first(*x, is_causal=True), query, key, value
        )
        return y, *pullback(dy)

    made = jax.jit(step).lower(x, x, x, x).compile()
    assert made.memory_analysis().temp_size_in_bytes < 3 * scores + 8 * x.nbytes
