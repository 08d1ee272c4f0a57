"""Top-k softmax against a loop over tokens, in values and gradients."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.routing import ROUTERS, token_normal, top_k
from moe.types import Context
from tests.reference import routers
from tests.reference import routing as reference
from tests.reference.compare import assert_close

G, S, E = 2, 6, 5


def context(mask=None):
    mask = jnp.ones((G, S), bool) if mask is None else mask
    position = jnp.arange(G * S, dtype=jnp.int32).reshape(G, S)
    return Context(mask=mask, position=position)


@functools.partial(jax.jit, static_argnames=('k', 'renormalize'))
def route(logits, k, renormalize=True, mask=None):
    return top_k(logits, context(mask), k=k, renormalize=renormalize)


@functools.partial(jax.jit, static_argnames=('k', 'renormalize'))
def weight_gradient(logits, d, k, renormalize):
    def objective(logits):
        routing = top_k(logits, context(), k=k, renormalize=renormalize)
        return jnp.sum(routing.weight * d)

    return jax.grad(objective)(logits)


def draw(seed):
    """Logits whose order float32 cannot change, and a cotangent [G, 5, S]."""
    rng = np.random.default_rng(seed)
    order = rng.permuted(np.tile(np.arange(E), (G, S, 1)), axis=-1)
    logits = 0.5 * order + rng.uniform(-0.2, 0.2, order.shape) - 1
    return np.float32(logits), np.float32(rng.normal(size=(G, E, S)))


@pytest.mark.parametrize('renormalize', [True, False])
@pytest.mark.parametrize('k', [1, 2, 5])
@hypothesis.settings(max_examples=10)
@hypothesis.given(seed=st.integers(0, 2**31))
def test_equals_the_loop(k, renormalize, seed):
    logits, d = draw(seed)
    routing = route(logits, k, renormalize)
    actual = weight_gradient(logits, d[:, :k], k, renormalize)
    gates, gradient = np.zeros((G, k, S)), np.zeros((G, S, E))
    probs = np.zeros((G, S, E))
    for g, s in np.ndindex(G, S):
        row = np.float64(logits[g, s])
        chosen, gates[g, :, s] = reference.softmax_then_select(
            row, k, renormalize
        )
        assert routing.expert[g, :, s].tolist() == chosen
        probs[g, s] = reference.softmax(row)
        # p_e / dl_j = p_e (1[e = j] - p_j), of whichever softmax it is.
        p = probs[g, s]
        if renormalize and k > 1:
            p = np.zeros(E)
            p[chosen] = gates[g, :, s]
            np.testing.assert_allclose(
                p[chosen], reference.select_then_softmax(row, k)[1]
            )
        for c, e in enumerate(chosen):
            unit = np.arange(E) == e
            gradient[g, s] += d[g, c, s] * p[e] * (unit - p)
    assert_close(routing.weight, gates, 1e-6)
    assert_close(routing.probs, probs, 1e-6)
    assert_close(actual, gradient, 2e-6)
    assert routing.logits is not None
    np.testing.assert_array_equal(routing.logits, logits)
    assert routing.priority is None


@pytest.mark.parametrize('renormalize', [True, False])
def test_selects_by_logits(renormalize):
    # Four probabilities are 0 in float32: 1 and 2 have the lowest indices.
    logits = np.tile(np.float32([0, 10, 300, 150, 20]), (G, S, 1))
    routing = route(logits, 3, renormalize)
    assert routing.expert[0, :, 0].tolist() == [2, 3, 4]
    assert routing.weight[0, :, 0].tolist() == [1, 0, 0]
    kept = top_k(logits, context(), k=3, ties='keep')
    assert kept.valid[0, :, 0].tolist() == [True] * 3 + [False] * 2
    np.testing.assert_array_equal(kept.expert[:, :3], routing.expert)


def test_ties_go_to_the_lowest_index():
    logits = jnp.zeros((G, S, E)).at[..., 3].set(1.0)
    routing = route(logits, 3)
    # Expert 3 leads, the other four tie.
    for k, expert in enumerate([3, 0, 1]):
        assert np.all(routing.expert[:, k] == expert)


@pytest.mark.parametrize('renormalize', [True, False])
def test_ties_may_all_stay(renormalize):
    # p = [.1, .4, .2, .2, .1]: of 1, 2, 3 and 4 choices the second and the
    # fourth tie with another.
    p = np.array([0.1, 0.4, 0.2, 0.2, 0.1])
    logits = jnp.broadcast_to(jnp.log(p), (G, S, E))
    chosen = {1: [1], 2: [1, 2, 3], 3: [1, 2, 3], 4: [1, 2, 3, 0, 4]}
    for k, experts in chosen.items():
        routing = top_k(
            logits, context(), k=k, renormalize=renormalize, ties='keep'
        )
        gates = p[experts]
        if renormalize and k > 1:
            gates = gates / gates.sum()
        for g, s in np.ndindex(G, S):
            live = routing.valid[g, :, s]
            assert routing.expert[g, live, s].tolist() == experts
            np.testing.assert_allclose(
                routing.weight[g, live, s], gates, rtol=1e-6
            )


def test_without_ties_keeping_them_changes_nothing():
    logits, d = draw(0)
    for k in (1, 2, 5):
        kept = top_k(logits, context(), k=k, ties='keep')
        desired = route(logits, k)
        assert_close(kept.weight[:, :k], np.asarray(desired.weight), 1e-6)
        np.testing.assert_array_equal(kept.expert[:, :k], desired.expert)
        assert np.all(kept.valid[:, :k])
        assert not np.any(kept.valid[:, k:])
        objective = lambda v, k=k: jnp.sum(
            top_k(v, context(), k=k, ties='keep').weight[:, :k] * d[:, :k]
        )
        gradient = np.asarray(weight_gradient(logits, d[:, :k], k, True))
        assert_close(jax.grad(objective)(logits), gradient, 2e-6)


@pytest.mark.parametrize('renormalize', [True, False])
def test_a_single_gate_is_a_probability_and_trains_the_router(renormalize):
    # Two experts of probabilities p and 1 - p with p = 1/(1 + e^-1) = .7311:
    # the gate is p, its gradient p (1 - p) = .1966; it would be 1 and 0.
    logits = jnp.broadcast_to(jnp.array([1.0, 0.0]), (G, S, 2))
    weight = route(logits, 1, renormalize).weight
    np.testing.assert_allclose(weight, 0.7310586, rtol=1e-6)
    d = jnp.ones((G, 1, S))
    gradient = weight_gradient(logits, d, 1, renormalize)
    np.testing.assert_allclose(gradient[..., 0], 0.1966119, rtol=1e-5)
    np.testing.assert_allclose(gradient[..., 1], -0.1966119, rtol=1e-5)


def test_by_default_two_experts_whose_gates_sum_to_one():
    routing = jax.jit(top_k)(draw(0)[0], context())
    assert routing.expert.shape == (G, 2, S)
    np.testing.assert_allclose(jnp.sum(routing.weight, axis=1), 1, rtol=1e-6)


def test_padding_is_not_live():
    mask = jnp.arange(G * S).reshape(G, S) % 3 > 0
    routing = route(draw(0)[0], 2, mask=mask)
    for k in range(2):
        np.testing.assert_array_equal(routing.valid[:, k], mask)
    np.testing.assert_array_equal(routing.mask, mask)


def test_dtypes_and_size():
    routing = jax.eval_shape(top_k, jnp.zeros((G, S, E)), context())
    dtypes = {
        name: value.dtype
        for name, value in vars(routing).items()
        if value is not None
    }
    assert dtypes == {
        'expert': jnp.int32,
        'weight': jnp.float32,
        'valid': jnp.bool_,
        'probs': jnp.float32,
        'logits': jnp.float32,
        'mask': jnp.bool_,
    }
    assert routing.num_experts == E


def test_more_choices_than_experts():
    with pytest.raises(ValueError, match='k = 6 of 5 experts'):
        top_k(jnp.zeros((G, S, E)), context(), k=6)


def test_is_registered():
    assert ROUTERS['top_k'] is top_k


@pytest.mark.parametrize('k', [1, 2])
def test_noise_is_by_token_and_only_in_training(k):
    # V-MoE: H = logits + normal / E; the gates are the softmax of all of H,
    # and an expert's chance is Phi((logits - K-th of H) E).
    logits, key = draw(3)[0], jax.random.key(5)
    still = context()._replace(key=key, train=False)
    options = {'k': k, 'renormalize': False, 'noise': 1.0}
    routing = top_k(logits, still, **options)
    np.testing.assert_array_equal(
        routing.weight, route(logits, k, False).weight
    )
    assert routing.selection_probability is None
    routing = top_k(logits, still._replace(train=True), **options)
    noise = np.float64(token_normal(key, still.position, E))
    for g, s in np.ndindex(G, S):
        clean = np.float64(logits[g, s])
        noisy = clean + noise[g, s] / E
        chosen, gates = reference.softmax_then_select(noisy, k, False)
        assert routing.expert[g, :, s].tolist() == list(chosen)
        assert_close(routing.weight[g, :, s], gates, 1e-6)
        assert_close(routing.probs[g, s], reference.softmax(clean), 1e-6)
        least = sorted(noisy)[-k]
        chance = [routers.normal_cdf((x - least) * E) for x in clean]
        assert_close(routing.selection_probability[g, s], chance, 1e-5)
    with pytest.raises(ValueError, match='noise needs an rng'):
        top_k(logits, context()._replace(train=True), **options)
