"""Weights of soft mixtures against loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.routing.soft import slot_logits, soft
from moe.types import Context
from tests.reference.compare import assert_close
from tests.reference.routing import softmax
from tests.routing.common import FULL, PADDED, SEEDS, G, S

D, N = 4, 6


def weights(x, slots, scale, mask):
    """The routing of tokens to slots."""
    position = jnp.arange(mask.size).reshape(mask.shape)
    return soft(slot_logits(x, slots, scale), Context(mask, position))


PROGRAM = jax.jit(weights)


def draw(seed):
    """Tokens, slots and the scale."""
    rng = np.random.default_rng(seed)
    x, slots = rng.normal(size=(G, S, D)), rng.normal(size=(D, N))
    return np.float32(x), np.float32(slots), np.float32(rng.uniform(0.5, 4))


def by_loop(x, slots, scale, mask):
    """Dispatch, combine and logits; weights of padding stay 0."""
    x, slots, scale = np.float64(x), np.float64(slots), np.float64(scale)
    logits = np.zeros((G, S, N))
    for g, s, n in np.ndindex(G, S, N):
        token = x[g, s] / np.linalg.norm(x[g, s])
        slot = slots[:, n] / np.linalg.norm(slots[:, n])
        logits[g, s, n] = scale * np.dot(token, slot)
    dispatch, combine = np.zeros((G, S, N)), np.zeros((G, S, N))
    for g in range(G):
        live = np.flatnonzero(mask[g])
        for n in range(N):
            if live.size:
                dispatch[g, live, n] = softmax(logits[g, live, n])
        for s in live:
            combine[g, s] = softmax(logits[g, s])
    return dispatch, combine, logits


@pytest.mark.parametrize('mask', [FULL, PADDED], ids=['full', 'padded'])
def test_equals_the_loop(mask):
    for seed in SEEDS:
        args = draw(seed)
        routing = jax.device_get(PROGRAM(*args, mask))
        dispatch, combine, logits = by_loop(*args, mask)
        assert_close(routing.dispatch, dispatch, 2e-6)
        assert_close(routing.combine, combine, 2e-6)
        assert_close(routing.logits, logits, 2e-6)
        assert not np.any(routing.dispatch[~mask])
        assert not np.any(routing.combine[~mask])
        np.testing.assert_allclose(routing.dispatch.sum(1), 1, rtol=1e-5)
        np.testing.assert_allclose(routing.combine[mask].sum(-1), 1, rtol=1e-5)
        assert {v.dtype for v in routing} == {np.dtype('float32')}


def test_known_weights():
    # Token (3, 4) is (.6, .8), slots are the axes, whatever their length; the
    # scale is log 2: logits [.6, .8] and [1, 0] times log 2.
    x = jnp.array([[[3.0, 4.0], [0.5, 0.0]]])
    slots = jnp.array([[7.0, 0.0], [0.0, 0.1]])
    routing = PROGRAM(x, slots, jnp.log(2.0), jnp.ones((1, 2), bool))
    a, b = 2**0.6, 2**0.8
    dispatch = [[a / (a + 2), b / (b + 1)], [2 / (a + 2), 1 / (b + 1)]]
    combine = [[a / (a + b), b / (a + b)], [2 / 3, 1 / 3]]
    np.testing.assert_allclose(routing.dispatch[0], dispatch, rtol=1e-6)
    np.testing.assert_allclose(routing.combine[0], combine, rtol=1e-6)


def test_the_length_of_tokens_and_slots_does_not_matter():
    x, slots, scale = draw(0)
    one = PROGRAM(x, slots, scale, FULL)
    two = PROGRAM(x * 8, slots * np.float32(0.25), scale, FULL)
    for a, b in zip(two, one, strict=True):
        assert_close(a, b, 1e-6)


def test_group_without_a_live_token_has_weights_zero():
    mask = np.stack([np.zeros(S, bool), PADDED[0]])

    def total(*args):
        routing = weights(*args, mask)
        weight = jnp.arange(N) * jnp.cos(jnp.arange(S))[:, None]
        return jnp.sum((routing.dispatch + routing.combine**2) * weight)

    args = draw(0)
    routing = PROGRAM(*args, mask)
    assert not np.any(routing.dispatch[0])
    assert not np.any(routing.combine[0])
    gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(*args)
    for gradient in gradients:
        assert np.all(np.isfinite(gradient))
        assert np.any(gradient)
    assert not np.any(gradients[0][~mask])


@pytest.mark.parametrize('which', ['tokens', 'slots', 'both'])
def test_zero_vectors_have_finite_gradients(which):
    # A token of padding is zeros, and slots may start there.
    x, slots, scale = draw(1)
    x = x * (which == 'slots')
    slots = slots * (which == 'tokens')

    def total(x, slots, scale):
        routing = weights(x, slots, scale, FULL)
        return jnp.sum(routing.dispatch**2) + jnp.sum(routing.combine**2)

    gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(x, slots, scale)
    for gradient in gradients:
        assert np.all(np.isfinite(gradient))
    # All logits are 0: every share is the same.
    routing = PROGRAM(x, slots, scale, FULL)
    np.testing.assert_allclose(routing.dispatch, 1 / S, rtol=1e-6)
    np.testing.assert_allclose(routing.combine, 1 / N, rtol=1e-6)
