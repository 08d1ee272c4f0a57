"""Noisy top-k gating: chances against simulation, and noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.routing import noisy_top_k, token_normal
from tests.reference import losses as reference_losses
from tests.reference.compare import assert_close
from tests.routing.common import (
    KEY,
    PADDED,
    POSITION,
    E,
    G,
    S,
    accounted,
    auxiliary_of,
    context,
    draw,
    gradient,
    run,
)

NOISE = np.float64(token_normal(KEY, POSITION, E))


def noise_logits(seed):
    rng = np.random.default_rng(100 + seed)
    return rng.uniform(-3, 0, (G, S, E)).astype(np.float32)


def simulated(logits, std, noisy, k, number=2000):
    """Share of redraws of one expert's noise that put it among the K."""
    rng = np.random.default_rng(0)
    shares = np.zeros(E)
    for e in range(E):
        again = np.tile(noisy, (number, 1))
        again[:, e] = logits[e] + std[e] * rng.normal(size=number)
        above = np.sum(again > again[:, e, None], axis=1)
        shares[e] = np.mean(above < k)
    return shares


@pytest.mark.parametrize('k', [1, 2, 4])
def test_chances_are_what_redrawing_gives(k):
    # 2000 redraws: a standard deviation of at most .0112.
    logits, scale = draw(0), noise_logits(0) + 2
    ctx = context(key=KEY, train=True, noise_logits=scale)
    chance = run(noisy_top_k, logits, ctx, k=k).selection_probability
    std = np.log1p(np.exp(np.float64(scale))) + 1e-2
    noisy = logits + std * NOISE
    for g, s in np.ndindex(G, S):
        shares = simulated(logits[g, s], std[g, s], noisy[g, s], k)
        np.testing.assert_allclose(chance[g, s], shares, atol=5 * 0.0112)


@pytest.mark.parametrize('k', [1, 2])
def test_expected_loads_sum_to_k_a_token(k):
    # B = 4096 tokens: sum_e Load_e is about B K. Per token the sum of chances
    # has mean K and spread below 1: 5 / sqrt(4096) = .08 a token.
    shape = (2, 2048, E)
    rng = np.random.default_rng(0)
    ctx = context(
        shape=shape[:2],
        key=KEY,
        train=True,
        noise_logits=rng.normal(size=shape).astype(np.float32),
    )
    logits = rng.normal(size=shape).astype(np.float32)
    chance = run(noisy_top_k, logits, ctx, k=k).selection_probability
    np.testing.assert_allclose(chance.sum() / 4096, k, atol=0.08)
    assert np.all((chance >= 0) & (chance <= 1))


def test_without_noise_the_load_counts_gates():
    logits = draw(3)
    routing = run(noisy_top_k, logits, context(PADDED))
    aux = accounted(routing)
    chosen = np.zeros((G, S, E))
    for g, row, s in np.argwhere(routing.valid):
        chosen[g, s, routing.expert[g, row, s]] = 1
    desired = reference_losses.load(chosen, PADDED)
    np.testing.assert_allclose(aux.losses['load'], desired, rtol=1e-5)


def test_noise_logits_get_gradients_from_gates_and_from_the_load():
    logits, scale = draw(0), noise_logits(0)

    def losses(logits, scale):
        ctx = context(key=KEY, train=True, noise_logits=scale)
        routing = noisy_top_k(logits, ctx)
        return auxiliary_of(routing).losses

    jacobian = jax.jit(jax.jacrev(losses, argnums=(0, 1)))(logits, scale)
    for name in ('importance', 'load'):
        for gradient_ in jacobian[name]:
            assert np.all(np.isfinite(gradient_)), name
            assert np.any(np.abs(gradient_) > 1e-4), name


@pytest.mark.parametrize('train', [True, False])
def test_one_expert_a_token_trains_the_router(train):
    ctx = context(key=KEY, train=train, noise_logits=noise_logits(0))
    got = gradient(noisy_top_k, draw(0), ctx, k=1)
    assert np.all(np.isfinite(got))
    assert np.all(np.any(np.abs(got) > 1e-3, axis=-1))


def test_ties_go_to_the_lowest_index():
    routing = run(noisy_top_k, np.zeros((G, S, E), np.float32), context(), k=2)
    assert np.all(routing.expert[:, 0] == 0)
    assert np.all(routing.expert[:, 1] == 1)


def test_ties_may_all_stay():
    # [2, 1, 1, 0, 0] at K = 2: softmax over [2, 1, 1] = e, 1, 1 over e + 2.
    logits = np.broadcast_to(np.float32([2, 1, 1, 0, 0]), (G, S, E))
    routing = run(noisy_top_k, logits, context(), k=2, ties='keep')
    assert np.all(routing.valid[:, :3])
    assert not np.any(routing.valid[:, 3:])
    for row, gate in enumerate(np.array([np.e, 1, 1]) / (np.e + 2)):
        np.testing.assert_allclose(routing.weight[:, row], gate, rtol=1e-6)
    assert not np.any(routing.weight[:, 3:])

    def weights(logits, ties):
        ctx = context(key=KEY, train=True, noise_logits=noise_logits(0))
        routing = noisy_top_k(logits, ctx, k=2, ties=ties)
        return jnp.sum(routing.weight[:, 0] ** 2)

    # With noise there are none, and the gradient is the same.
    slopes = [jax.grad(weights)(draw(0), ties) for ties in ('keep', 'lowest')]
    assert_close(slopes[0], np.asarray(slopes[1]), 1e-6)


def test_noise_without_a_floor_is_finite():
    # softplus(-200) = 0: no noise, chances of 0 and 1, and no NaN.
    logits, scale = draw(0), np.full((G, S, E), -200, np.float32)

    def objective(logits, scale):
        ctx = context(key=KEY, train=True, noise_logits=scale)
        routing = noisy_top_k(logits, ctx, noise_epsilon=0.0)
        total = jnp.sum(routing.weight[:, 0] ** 2)
        total += jnp.sum(routing.selection_probability * draw(1))
        return total, routing

    slopes, routing = jax.grad(objective, (0, 1), has_aux=True)(logits, scale)
    assert all(np.all(np.isfinite(slope)) for slope in slopes)
    assert np.any(slopes[0])
    chosen = np.zeros((G, S, E))
    for g, k, s in np.ndindex(G, 2, S):
        chosen[g, s, routing.expert[g, k, s]] = 1
    np.testing.assert_array_equal(routing.selection_probability, chosen)
    still = run(noisy_top_k, logits, context(), k=2)
    np.testing.assert_array_equal(routing.weight, still.weight)


def test_evaluation_is_without_noise_and_needs_no_key():
    logits = draw(0)
    alone = run(noisy_top_k, logits, context())
    keyed = run(noisy_top_k, logits, context(key=KEY, noise_logits=logits))
    jax.tree.map(np.testing.assert_array_equal, alone, keyed)


def test_noise_follows_the_position():
    logits, scale = draw(0), noise_logits(0)
    ctx = context(key=KEY, train=True, noise_logits=scale)
    whole = run(noisy_top_k, logits, ctx)
    shape = (3, 4)
    regrouped = context(shape=shape, key=KEY, train=True)
    regrouped = regrouped._replace(noise_logits=scale.reshape(*shape, E))
    other = run(noisy_top_k, logits.reshape(*shape, E), regrouped)
    np.testing.assert_array_equal(other.probs.reshape(G, S, E), whole.probs)
    new_key = ctx._replace(key=jax.random.key(12))
    assert np.all(run(noisy_top_k, logits, new_key).probs != whole.probs)


def test_errors():
    zeros = jnp.zeros((G, S, E))
    ctx = context(train=True, noise_logits=zeros)
    with pytest.raises(ValueError, match="needs an rng named 'router'"):
        noisy_top_k(zeros, ctx)
    with pytest.raises(ValueError, match='k = 6 of 5 experts'):
        noisy_top_k(zeros, context(), k=6)
