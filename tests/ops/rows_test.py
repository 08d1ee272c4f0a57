"""Row movements against loops, in values and gradients."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.ops import combine_rows, dispatch_rows, native
from tests.reference.compare import assert_close

T, R, K, D = 7, 10, 2, 3


def injection(seed):
    """Some (choice, token) pairs put into some of the rows, both ways."""
    rng = np.random.default_rng(seed)
    token, row = np.full(R, T, np.int32), np.full((K, T), R, np.int32)
    pairs = rng.permutation(K * T)[: rng.integers(0, R + 1)]
    for pair, r in zip(pairs, rng.permutation(R), strict=False):
        token[r] = pair % T
        row[pair // T, pair % T] = r
    return token, row


def any_rows(seed):
    """Tokens with any number of rows; no way back is known."""
    return np.random.default_rng(seed).integers(0, T + 1, R, np.int32), None


PLANS = {'injection': injection, 'any': any_rows}


def draw(seed):
    rng = np.random.default_rng(seed)
    shapes = [(T, D), (R, D), (R,)]
    return [rng.standard_normal(s).astype(np.float32) for s in shapes]


@pytest.fixture(autouse=True, params=['kernels', 'xla'])
def kernels(request, monkeypatch):
    """With the kernels for CPUs, and with what other platforms have."""
    if request.param == 'xla':
        monkeypatch.setattr(native, 'takes', lambda *_: False)
    jax.clear_caches()
    yield
    jax.clear_caches()


@jax.jit
def spread_and_gradient(x, d, token, row):
    out, pull = jax.vjp(lambda x: dispatch_rows(x, token, row), x)
    return out, *pull(d)


@jax.jit
def collect_and_gradients(rows, weight, d, token, row):
    def move(rows, weight):
        return combine_rows(rows, weight, token, row, T)

    y, pull = jax.vjp(move, rows, weight)
    return y, *pull(d)


@pytest.mark.parametrize('kind', PLANS)
@hypothesis.settings(max_examples=20)
@hypothesis.given(seed=st.integers(0, 2**31))
def test_spread(kind, seed):
    token, row = PLANS[kind](seed)
    x, d, _ = draw(seed)
    out, d_x = np.zeros((R, D)), np.zeros((T, D))
    for r in range(R):
        if token[r] < T:
            out[r] = x[token[r]]
            d_x[token[r]] += d[r]
    assert_close(spread_and_gradient(x, d, token, row), (out, d_x), 1e-6)


@pytest.mark.parametrize('kind', PLANS)
@hypothesis.settings(max_examples=20)
@hypothesis.given(seed=st.integers(0, 2**31))
def test_collect(kind, seed):
    token, row = PLANS[kind](seed)
    d, rows, weight = draw(seed)
    y = np.zeros((T, D))
    d_rows, d_weight = np.zeros((R, D)), np.zeros(R)
    for r in range(R):
        if token[r] < T:
            y[token[r]] += weight[r] * rows[r]
            d_rows[r] = weight[r] * d[token[r]]
            d_weight[r] = np.sum(rows[r] * d[token[r]])
    actual = collect_and_gradients(rows, weight, d, token, row)
    assert_close(actual, (y, d_rows, d_weight), 1e-6)


@pytest.mark.parametrize('kind', PLANS)
def test_empty_rows_are_zeros_and_are_not_read(kind):
    # Token 3 in row 0, nothing in rows 1 to 9, which hold NaN.
    token = np.full(R, T, np.int32)
    token[0] = 3
    row = np.full((K, T), R, np.int32)
    row[1, 3] = 0
    row = None if kind == 'any' else row
    x, rows, weight = draw(0)
    out = spread_and_gradient(x, rows, token, row)[0]
    assert_close(out[0], x[3], 0)
    assert not np.any(out[1:])
    rows[1:] = np.nan
    y = collect_and_gradients(rows, weight, x, token, row)[0]
    np.testing.assert_allclose(y[3], weight[0] * rows[0], rtol=1e-6)
    assert not np.any(np.delete(y, 3, axis=0))


def test_dtypes():
    token, row = injection(0)
    x, rows, weight = draw(0)
    x, rows = jnp.asarray(x, jnp.bfloat16), jnp.asarray(rows, jnp.bfloat16)
    for way in (row, None):
        assert dispatch_rows(x, token, way).dtype == jnp.bfloat16
        assert combine_rows(rows, weight, token, way, T).dtype == jnp.bfloat16


@pytest.mark.parametrize('kind', PLANS)
def test_scatter_only_where_a_token_may_have_any_number_of_rows(kind):
    # Forward and backward of both movements are gathers if both ways of the
    # injection are known.
    token, row = PLANS[kind](0)
    x, rows, weight = draw(0)
    text = ''.join(
        str(jax.make_jaxpr(functools.partial(run, token=token, row=row))(*args))
        for run, args in [
            (spread_and_gradient, (x, rows)),
            (collect_and_gradients, (rows, weight, x)),
        ]
    )
    assert 'gather' in text
    assert ('scatter' in text) == (kind == 'any')
