"""Moving rows between tokens and expert buffers, by gathers both ways.

T tokens, R buffer rows, K choices a token, D width. A plan is a partial
injection of (choice, token) pairs into rows; `token` and `row` are its two
directions. Knowing both, the gradient of either movement is again a gather:
scatter-adds, slow on every platform, are only needed where a token may have
any number of rows (`row is None`, expert choice).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def dispatch_rows(
    x: Float[Array, 'T D'],
    token: Int[Array, 'R'],
    row: Int[Array, 'K T'] | None,
) -> Float[Array, 'R D']:
    """Copies each row's token into the buffer: `out[r] = x[token[r]]`.

    Args:
      x: tokens, float.
      token: token of each row, int32; T marks an empty row, which gets zeros.
      row: row of each choice of each token, int32; R marks none. None if a
        token can have any number of rows.

    Returns:
      The buffer, in the dtype of `x`.

    >>> x = jnp.array([[1.0], [2.0]])
    >>> rows = dispatch_rows(x, jnp.array([1, 2, 0]), jnp.array([[2, 0]]))
    >>> rows.ravel().tolist()
    [2.0, 0.0, 1.0]
    """
    if row is None:
        return _take(x, token)
    return _dispatch(x, token, row)


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
    # In float32, so that the router's gradient is not rounded on the way.
    scaled = rows.astype(jnp.float32) * weight[:, None]
    scaled = scaled.astype(rows.dtype)
    if row is None:
        zeros = jnp.zeros((num_tokens, rows.shape[1]), rows.dtype)
        return zeros.at[token].add(scaled, mode='drop')
    return _combine(scaled, token, row)


def _take(x, index):
    return jnp.take(x, index, axis=0, mode='fill', fill_value=0)


def _sum(rows, row):
    """`sum_k rows[row[k]]`, one choice at a time: no [K, T, D] buffer."""
    total = _take(rows, row[0])
    for r in row[1:]:
        total = total + _take(rows, r)
    return total


@jax.custom_vjp
def _dispatch(x, token, row):
    return _take(x, token)


_dispatch.defvjp(
    lambda x, token, row: (_take(x, token), row),
    lambda row, d: (_sum(d, row), None, None),
)


@jax.custom_vjp
def _combine(rows, token, row):
    return _sum(rows, row)


_combine.defvjp(
    lambda rows, token, row: (_sum(rows, row), token),
    lambda token, d: (_take(d, token), None, None),
)
