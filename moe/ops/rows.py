"""Moving rows between tokens and expert buffers, by gathers both ways.

T tokens, R buffer rows, K choices a token, D width. A plan is a partial
injection of (choice, token) pairs into rows; `token` and `row` are its two
directions. Knowing both, the gradient of either movement is again a gather:
scatter-adds, slow on every platform, are only needed where a token may have
any number of rows (`row is None`, expert choice). On CPUs they are kernels of
`moe.ops.native`: XLA's gathers move one number at a time.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from moe.ops import native


def dispatch_rows(
    x: Float[Array, 'T D'],
    token: Int[Array, 'R'],
    row: Int[Array, 'K T'] | None,
    *,
    zeros: bool = True,
) -> Float[Array, 'R D']:
    """Copies each row's token into the buffer: `out[r] = x[token[r]]`.

    Args:
      x: tokens, float.
      token: token of each row, int32; T marks an empty row, which gets zeros.
      row: row of each choice of each token, int32; R marks none. None if a
        token can have any number of rows.
      zeros: whether empty rows get zeros; else they may get any token, where
        nothing reads them: on TPU zeros are one more pass over the buffer.

    Returns:
      The buffer, in the dtype of `x`.

    >>> x = jnp.array([[1.0], [2.0]])
    >>> rows = dispatch_rows(x, jnp.array([1, 2, 0]), jnp.array([[2, 0]]))
    >>> rows.ravel().tolist()
    [2.0, 0.0, 1.0]
    """
    if row is None:
        return _take(x, token)
    return _dispatch(x, token, row, zeros)


def combine_rows(
    rows: Float[Array, 'R D'],
    weight: Float[Array, 'R'],
    token: Int[Array, 'R'],
    row: Int[Array, 'K T'] | None,
    num_tokens: int,
) -> Float[Array, 'T D']:
    """Weighted sum of each token's rows: `y[t] = sum_r weight[r] rows[r]`.

    The sum is over the rows r with `token[r] = t`; the transpose of
    `dispatch_rows` when the weights are one.

    Args:
      rows: the buffer, float.
      weight: weight of each row, float32.
      token: token of each row, see `dispatch_rows`.
      row: row of each choice of each token, see `dispatch_rows`.
      num_tokens: T.

    Returns:
      The sums, in the dtype of `rows`.
    """
    if row is None:
        zeros = jnp.zeros((num_tokens, rows.shape[1]), rows.dtype)
        return zeros.at[token].add(_scaled(rows, weight), mode='drop')
    return _combine(rows, weight, token, row)


def _scaled(rows, weight):
    # In float32, so that the router's gradient is not rounded on the way.
    scaled = rows.astype(jnp.float32) * weight[:, None]
    return scaled.astype(rows.dtype)


def _take(x, index):
    return jnp.take(x, index, axis=0, mode='fill', fill_value=0)


def _sum(rows, row):
    """`sum_k rows[row[k]]`, one choice at a time: no [K, T, D] buffer."""
    total = _take(rows, row[0])
    for r in row[1:]:
        total = total + _take(rows, r)
    return total


def _on_cpu(kernel, otherwise):
    """Returns a function of arrays: on CPUs the kernel, where it takes them."""

    def on_cpu(*arrays):
        chosen = kernel if native.takes(arrays[0]) else otherwise
        return chosen(*arrays)

    return functools.partial(
        lax.platform_dependent, cpu=on_cpu, default=otherwise
    )


def _ones(index):
    return jnp.ones(index.shape, jnp.float32)


def _weights(weight, row):
    """The weight of each choice of each token, 0 where it has no row."""
    return jnp.take(weight, row, mode='fill', fill_value=0)


def _weighted_sum(rows, weight, row):
    """Weighs where it sums, in float32: no second buffer of weighed rows."""
    total = jnp.zeros((row.shape[1], rows.shape[1]), jnp.float32)
    for r, w in zip(row, _weights(weight, row), strict=True):
        total += _take(rows, r).astype(jnp.float32) * w[:, None]
    return total.astype(rows.dtype)


# `out[r] = x[token[r]]`
_spread = _on_cpu(
    lambda x, token: native.gather(x, token[None], _ones(token[None])), _take
)
_spread_filled = _on_cpu(
    lambda x, token: native.gather(x, token[None], _ones(token[None])),
    lambda x, token: jnp.take(x, token, axis=0, mode='clip'),
)
# `y[t] = sum_k rows[row[k, t]]`
_collect = _on_cpu(lambda d, row: native.gather(d, row, _ones(row)), _sum)
# `y[t] = sum_k weight[row[k, t]] rows[row[k, t]]`
_collect_weighted = _on_cpu(
    lambda rows, weight, row: native.gather(rows, row, _weights(weight, row)),
    _weighted_sum,
)
# `out[r] = weight[r] d[token[r]]`
_spread_weighted = _on_cpu(
    lambda d, weight, token: native.gather(d, token[None], weight[None]),
    lambda d, weight, token: _scaled(_take(d, token), weight),
)
# `out[r] = rows[r] . d[token[r]]`
_products = _on_cpu(
    native.dots,
    lambda rows, d, token: jnp.sum(
        rows.astype(jnp.float32) * _take(d, token).astype(jnp.float32), axis=1
    ),
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _dispatch(x, token, row, zeros):
    return (_spread if zeros else _spread_filled)(x, token)


_dispatch.defvjp(
    lambda x, token, row, zeros: (_dispatch(x, token, row, zeros), row),
    lambda zeros, row, d: (_collect(d, row), None, None),
)


@jax.custom_vjp
def _combine(rows, weight, token, row):
    return _collect_weighted(rows, weight, row)


def _combine_backward(residuals, d):
    rows, weight, token = residuals
    d_rows = _spread_weighted(d, weight, token)
    return d_rows, _products(rows, d, token).astype(weight.dtype), None, None


_combine.defvjp(
    lambda rows, weight, token, row: (
        _collect_weighted(rows, weight, row),
        (rows, weight, token),
    ),
    _combine_backward,
)
