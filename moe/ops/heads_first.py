"""Attention with the heads before the positions, as suits XLA on CPUs.

B batch, S positions, H query heads, N key-value heads (H a multiple of N), h
head width, v that of the values. Between the transpositions of its arguments
every product is of matrices that are contiguous, one a sequence and key-value
head: `R = H/N * S` rows of queries, S of keys.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

# As jax.nn.dot_product_attention has it.
_MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)


def heads_first(
    query: Float[Array, 'B S H h'],
    key: Float[Array, 'B S N h'],
    value: Float[Array, 'B S N v'],
    *,
    is_causal: bool,
    scale: float | None = None,
    window: int | None = None,
) -> Float[Array, 'B S H v']:
    """`softmax(Q K^T / sqrt(h)) V`, for gradients in reverse mode.

    Args:
      query: queries, any float.
      key: keys, in the dtype of `query`.
      value: values, in the dtype of `query`.
      is_causal: whether a position sees only itself and those before it.
      scale: factor on the scores; None for `1 / sqrt(h)`.
      window: number of positions that a causal query sees, itself included;
        None for all.

    Returns:
      The weighted means of the values, in the dtype of `query`. The scores and
      the softmax are float32.
    """
    batch, length, heads, width = query.shape
    kv_heads = key.shape[2]
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    rows = query.reshape(batch, kv_heads, -1, width)
    scale = width**-0.5 if scale is None else scale
    y = _attention(is_causal, scale, window)(rows, key, value)
    return jnp.swapaxes(y.reshape(batch, heads, length, -1), 1, 2)


def _product(x, y):
    """Products of matrices, `x[b, n] @ y[b, n]`, summed up in float32."""
    numbers = (((3,), (2,)), ((0, 1), (0, 1)))
    return lax.dot_general(x, y, numbers, preferred_element_type=jnp.float32)


def _turned(x):
    # Before the product: within it XLA reads the matrix in strides.
    return jnp.swapaxes(x, 2, 3)


def _forward(query, key, value, is_causal, scale, window):
    length = key.shape[2]
    scores = _product(query, _turned(key)) * scale
    if is_causal:
        seen = jnp.tril(jnp.ones((length, length), bool))
        if window is not None:
            seen = jnp.triu(seen, 1 - window)
        grid = scores.reshape(*scores.shape[:2], -1, length, length)
        scores = jnp.where(seen, grid, _MASKED).reshape(scores.shape)
    share = jax.nn.softmax(scores, axis=-1).astype(key.dtype)
    y = _product(share, value).astype(query.dtype)
    return y, (query, key, value, share)


def _backward(scale, residuals, dy):
    """With p the softmax, `ds = p (dp - sum(p dp)) * scale`."""
    query, key, value, share = residuals
    d_share = _product(dy, _turned(value))
    d_scores = share * (
        d_share - jnp.sum(share * d_share, axis=-1, keepdims=True)
    )
    d_scores = (d_scores * scale).astype(query.dtype)
    d_query = _product(d_scores, key)
    d_key = _product(_turned(d_scores), query)
    d_value = _product(_turned(share), dy)
    return tuple(d.astype(query.dtype) for d in (d_query, d_key, d_value))


@functools.cache
def _attention(is_causal, scale, window):
    """Returns the function of [B, N, R, h], keys and values [B, N, S, ...]."""

    def forward(query, key, value):
        return _forward(query, key, value, is_causal, scale, window)

    @jax.custom_vjp
    def attention(query, key, value):
        return forward(query, key, value)[0]

    attention.defvjp(forward, functools.partial(_backward, scale))
    return attention
