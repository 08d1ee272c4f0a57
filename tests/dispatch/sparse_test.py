"""The dispatcher by gates, against lists in Python."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.config import ConfigError
from moe.dispatch import SparseDispatcher
from moe.experts import MLP

pytestmark = pytest.mark.slow

# The example of ALGORITHMS: the last gate of the last example is 0.
GATES = np.float32(
    [[0.5, 0.4, 0.1], [0.3, 0.3, 0.4], [0.1, 0.2, 0.7], [0.8, 0.2, 0]]
)
X = np.float32([[1, 10], [2, 20], [3, 30], [4, 40]])


def lists(gates):
    """Examples of each expert in batch order, and the gates of these rows."""
    rows, weights = [], []
    for e in range(gates.shape[1]):
        rows.append([b for b in range(len(gates)) if gates[b, e] != 0])
        weights.append([gates[b, e] for b in rows[-1]])
    return rows, weights


def check(gates, k):
    x = np.random.default_rng(0).standard_normal((len(gates), 3))
    x = np.float32(x)
    rows, weights = lists(gates)
    flat = [b for r in rows for b in r]
    count = len(flat)
    factor = np.float32(np.arange(1, count + 1))[:, None]

    @jax.jit
    def run(gates, x):
        dispatcher = SparseDispatcher(gates, k)
        out = dispatcher.dispatch(x)
        scaled = out.at[:count].multiply(factor)
        return (
            dispatcher.sizes,
            out,
            dispatcher.combine(scaled),
            dispatcher.combine(scaled, multiply_by_gates=False),
            dispatcher.expert_to_gates(),
        )

    sizes, out, weighted, plain, by_row = run(gates, x)
    assert out.shape == (len(gates) * (k or gates.shape[1]), 3)
    assert sizes.tolist() == [len(r) for r in rows]
    np.testing.assert_array_equal(out[:count], x[flat])
    assert not np.any(out[count:])
    np.testing.assert_array_equal(
        by_row[:count], np.concatenate([[], *weights])
    )
    assert not np.any(by_row[count:])
    desired = np.zeros((2, *x.shape))
    for n, (b, w) in enumerate(
        zip(flat, np.concatenate([[], *weights]), strict=True)
    ):
        desired[0, b] += np.float64(w) * (n + 1) * x[b]
        desired[1, b] += (n + 1) * np.float64(x[b])
    np.testing.assert_allclose(weighted, desired[0], 1e-5, 1e-5)
    np.testing.assert_allclose(plain, desired[1], 1e-5, 1e-5)


def test_by_hand():
    # Expert 0 takes all four examples, 1 too, 2 the first three.
    dispatcher = SparseDispatcher(jnp.asarray(GATES))
    assert dispatcher.sizes.tolist() == [4, 4, 3]
    out = dispatcher.dispatch(jnp.asarray(X))
    assert out[:, 0].tolist() == [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 0]
    gates = [0.5, 0.3, 0.1, 0.8, 0.4, 0.3, 0.2, 0.2, 0.1, 0.4, 0.7, 0]
    by_row = dispatcher.expert_to_gates()
    np.testing.assert_array_equal(by_row, np.float32(gates))
    # Identity experts: the gates of each example sum to 1.
    np.testing.assert_allclose(dispatcher.combine(out), X, rtol=1e-6)
    # Unweighted: as many times itself as it has experts.
    plain = dispatcher.combine(out, multiply_by_gates=False)
    np.testing.assert_array_equal(plain, X * [[3], [3], [3], [2]])


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_equals_the_lists(data):
    size = data.draw(st.integers(1, 7))
    num_experts = data.draw(st.integers(1, 4))
    k = data.draw(st.integers(1, num_experts))
    gates = np.zeros((size, num_experts), np.float32)
    for b in range(size):
        experts = data.draw(
            st.lists(st.integers(0, num_experts - 1), max_size=k, unique=True)
        )
        gates[b, experts] = data.draw(st.sampled_from([0.25, 1.0, -0.5]))
    check(gates, data.draw(st.sampled_from([k, None])))


def test_gradients_of_gates_examples_and_experts():
    # y_b = sum_e g_be f_e(x_b): the dense sum over all experts, of which the
    # gates that are 0 have no gradient, here because nothing was computed.
    experts = MLP(hidden=4, num_experts=3, activation='gelu')
    x = np.random.default_rng(0).standard_normal((4, 2)).astype(np.float32)
    params = experts.init(jax.random.key(0), jnp.zeros((3, 1, 2)))

    def sparse(params, gates, x):
        d = SparseDispatcher(gates)
        return d.combine(experts.apply(params, d.dispatch(x), d.sizes))

    def dense(params, gates, x):
        out = experts.apply(params, jnp.broadcast_to(x, (3, 4, 2)))
        return jnp.einsum('be,ebd->bd', gates, out)

    def gradients(function):
        weights = jnp.arange(8.0).reshape(4, 2)
        objective = lambda *args: jnp.sum(function(*args) * weights)
        return jax.jit(jax.grad(objective, (0, 1, 2)))(params, GATES, x)

    found, desired = gradients(sparse), gradients(dense)
    close = functools.partial(np.testing.assert_allclose, atol=1e-5)
    jax.tree.map(close, found[0], desired[0])
    close(found[1], np.where(GATES != 0, desired[1], 0))
    close(found[2], desired[2])


@pytest.mark.parametrize('k', [0, 4])
def test_refuses_more_choices_than_experts(k):
    with pytest.raises(ValueError, match=f'k = {k} of 3 experts'):
        SparseDispatcher(jnp.asarray(GATES), k)


# Three experts that are plain functions, of outputs wider than the examples.
FUNCTIONS = [
    lambda x: jnp.concatenate([x, x[:, :1]], axis=1),
    lambda x: jnp.concatenate([x**2, x[:, :1]], axis=1),
    lambda x: jnp.concatenate([-x, x[:, 1:]], axis=1),
]


def test_experts_that_are_functions_get_their_rows_apart():
    dispatcher = SparseDispatcher(jnp.asarray(GATES))
    parts = dispatcher.split(dispatcher.dispatch(X))
    gates = dispatcher.split(dispatcher.expert_to_gates())
    rows, weights = lists(GATES)
    for e in range(3):
        np.testing.assert_array_equal(parts[e], X[rows[e]])
        np.testing.assert_array_equal(gates[e], np.float32(weights[e]))
    outputs = [f(part) for f, part in zip(FUNCTIONS, parts, strict=True)]
    dense = np.stack([f(X) for f in FUNCTIONS])
    desired = np.einsum('be,ebf->bf', GATES, dense)
    # As a list, one after another, and one after another with empty rows.
    joined = jnp.concatenate(outputs)
    padded = jnp.pad(joined, [(0, 1), (0, 0)])
    assert len(joined) == 11
    for form in (outputs, tuple(outputs), joined, padded):
        y = dispatcher.combine(form)
        np.testing.assert_allclose(y, desired, rtol=1e-6)
    plain = dispatcher.combine(outputs, multiply_by_gates=False)
    desired = np.einsum('be,ebf->bf', GATES != 0, dense)
    np.testing.assert_allclose(plain, desired, rtol=1e-6)


def test_gradients_pass_through_lists():
    def sparse(gates, x):
        dispatcher = SparseDispatcher(gates)
        parts = dispatcher.split(dispatcher.dispatch(x))
        outputs = [f(part) for f, part in zip(FUNCTIONS, parts, strict=True)]
        return jnp.sum(dispatcher.combine(outputs) ** 2)

    def dense(gates, x):
        outputs = jnp.stack([f(x) for f in FUNCTIONS])
        return jnp.sum(jnp.einsum('be,ebf->bf', gates, outputs) ** 2)

    found = jax.grad(sparse, (0, 1))(jnp.asarray(GATES), jnp.asarray(X))
    desired = jax.grad(dense, (0, 1))(jnp.asarray(GATES), jnp.asarray(X))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
    close(found[0], np.where(GATES != 0, desired[0], 0))
    close(found[1], desired[1])


@pytest.mark.parametrize(
    'outputs',
    [
        jnp.zeros((10, 2)),
        jnp.zeros((13, 2)),
        jnp.zeros((12,)),
        jnp.zeros((3, 4, 2)),
        [jnp.zeros((4, 2))] * 3,
        [jnp.zeros((4, 2))] * 2,
        [],
    ],
)
def test_refuses_outputs_of_other_rows(outputs):
    dispatcher = SparseDispatcher(jnp.asarray(GATES))
    line = r'must be \[12, F\], the rows of dispatch, or 11 rows without .* '
    with pytest.raises(ConfigError, match=line + r'list of \[4, 4, 3\] rows$'):
        dispatcher.combine(outputs)


def test_refuses_under_jit_what_depends_on_the_sizes():
    def rows(gates):
        return SparseDispatcher(gates).split(jnp.zeros((12, 2)))

    def joined(gates):
        return SparseDispatcher(gates).combine(jnp.zeros((11, 2)))

    def parts(gates):
        return SparseDispatcher(gates).combine([jnp.zeros((4, 2))] * 3)

    with pytest.raises(ConfigError, match='outside of jit'):
        jax.jit(rows)(GATES)
    for function in (joined, parts):
        with pytest.raises(ConfigError, match=r'must be \[12, F\] under jit'):
            jax.jit(function)(GATES)
