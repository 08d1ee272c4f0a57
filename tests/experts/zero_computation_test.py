"""Zero, copy and constant experts: alone, and beside others in a mixture."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.dispatch import DISPATCHERS
from moe.experts import MLP, ZeroComputationExperts
from moe.layers import MoE
from moe.routing import expert_choice, top_k
from tests import tiny
from tests.reference import experts as reference_experts
from tests.reference import routing as reference_routing
from tests.reference.compare import assert_close

pytestmark = pytest.mark.slow

G, S, D, F = 2, 6, 4, 3
MASK = np.array([[1, 0, 1, 1, 1, 0], [0, 1, 1, 0, 1, 1]], bool)


X, DY = tiny.numbers((G, S, D), 0), tiny.numbers((G, S, D), 1)


def params_of(constants):
    if not constants:
        return {}
    return {
        'vector': tiny.numbers((constants, D), 2),
        'mix': tiny.numbers((constants, D, 2), 3),
    }


def by_hand(x, i, counts, params):
    """Output of zero-computation expert i for one token."""
    zeros, copies, _ = counts
    if i < zeros:
        return np.zeros(D)
    if i < zeros + copies:
        return x
    c = i - zeros - copies
    a, b = reference_routing.softmax(x @ np.float64(params['mix'][c]))
    return a * x + b * np.float64(params['vector'][c])


@pytest.mark.parametrize(
    'counts', [(1, 1, 1), (2, 0, 0), (0, 2, 0), (0, 0, 2), (1, 2, 3)]
)
def test_equals_the_formulas(counts):
    layer, params = ZeroComputationExperts(*counts), params_of(counts[2])
    assert layer.num_experts == sum(counts)
    rng = np.random.default_rng(4)
    gates = rng.random((G, S, sum(counts))).astype(np.float32)
    y = jax.jit(layer.apply)({'params': params}, X, gates)
    desired = np.zeros((G, S, D))
    for g, s, i in np.ndindex(gates.shape):
        out = by_hand(np.float64(X[g, s]), i, counts, params)
        desired[g, s] += np.float64(gates[g, s, i]) * out
    assert_close(y, desired, 2e-6)
    narrow = layer.apply({'params': params}, jnp.asarray(X, 'bfloat16'), gates)
    assert narrow.dtype == jnp.bfloat16


def test_known_constant():
    # softmax([log 3, 0]) = [3/4, 1/4]: .75 * (1, 0) + .25 * (4, 8) = (1.75, 2),
    # times the gate 2.
    params = {
        'vector': np.float32([[4, 8]]),
        'mix': np.float32([[[np.log(3), 0], [0, 0]]]),
    }
    y = ZeroComputationExperts(0, 0, 1).apply(
        {'params': params}, jnp.array([[[1.0, 0.0]]]), jnp.full((1, 1, 1), 2.0)
    )
    np.testing.assert_allclose(y, [[[3.5, 4.0]]], rtol=1e-6)


def test_constants_differ_at_first():
    layer = ZeroComputationExperts(1, 1, 3)
    params = layer.init(jax.random.key(0), X, jnp.ones((G, S, 5)))['params']
    for leaf in params.values():
        assert leaf.dtype == jnp.float32
        assert np.all(leaf[0] != leaf[1])
        assert np.all(leaf[1] != leaf[2])
    assert (
        ZeroComputationExperts(2, 1).init(
            jax.random.key(0), X, jnp.ones((G, S, 3))
        )
        == {}
    )


# Three experts and one of each zero-computation kind: six to the router.
EXPERTS, COUNTS = 3, (1, 1, 1)
PARAMS = {
    'router': tiny.numbers((D, 6), 5),
    'experts': {
        'up': tiny.numbers((EXPERTS, D, F), 6),
        'gate': tiny.numbers((EXPERTS, D, F), 7),
        'down': tiny.numbers((EXPERTS, F, D), 8),
    },
    'zero_computation': params_of(1),
}
ROUTERS = {
    'top_k': functools.partial(top_k, k=2),
    'expert_choice': functools.partial(expert_choice, capacity_factor=1.5),
}


def assignments(router, g, slots):
    """(token, expert, weight) of a group, and whether it is kept."""
    wide = np.where(MASK[g, :, None], np.float64(X[g]), 0)
    logits = wide @ np.float64(PARAMS['router'])
    found = []
    if router == 'expert_choice':
        probs = np.array([reference_routing.softmax(row) for row in logits])
        size = reference_routing.capacity(S, 6, 1, '1.5')
        for e in range(6):
            order = sorted(
                np.flatnonzero(MASK[g]), key=lambda s: (-probs[s, e], s)
            )
            found += [(s, e, probs[s, e], True) for s in order[:size]]
        return found
    used = [0] * 6
    chosen = [
        reference_routing.softmax_then_select(row, 2, True) for row in logits
    ]
    for k in range(2):
        for s in np.flatnonzero(MASK[g]):
            e, weight = chosen[s][0][k], chosen[s][1][k]
            used[e] += 1
            # Zero-computation experts have no capacity.
            kept = e >= EXPERTS or slots is None or used[e] <= slots
            found.append((s, e, weight, kept))
    return found


def by_loop(router, slots):
    """Outputs, load, and the share that is dropped."""
    y, load, kept = np.zeros((G, S, D)), np.zeros(6), 0
    experts = jax.tree.map(np.float64, PARAMS['experts'])
    for g in range(G):
        for s, e, weight, is_kept in assignments(router, g, slots):
            load[e] += 1
            if not is_kept:
                continue
            kept += 1
            x = np.float64(X[g, s])
            if e >= EXPERTS:
                out = by_hand(
                    x, e - EXPERTS, COUNTS, PARAMS['zero_computation']
                )
            else:
                expert = reference_experts.expert_of(experts, e)
                out = reference_experts.mlp(x, expert, 'swiglu')
            y[g, s] += weight * out
    return y, load * 6 / load.sum(), 1 - kept / load.sum()


# Of six tokens and twelve choices, ceil(6*2*.25/6) = 1 fits an MLP expert.
@pytest.mark.parametrize('executor', DISPATCHERS)
@pytest.mark.parametrize(
    ('router', 'factor'),
    [('top_k', None), ('top_k', 0.25), ('expert_choice', None)],
)
def test_in_a_mixture_equals_the_loop(router, factor, executor):
    layer = MoE(
        MLP(F, num_experts=EXPERTS),
        ROUTERS[router],
        dispatcher=executor,
        capacity_factor=factor,
        zero_computation=ZeroComputationExperts(*COUNTS),
    )
    assert layer.num_experts == 6

    def objective(params, x):
        y, aux = layer.apply({'params': params}, x, mask=MASK, train=True)
        return jnp.sum(y * DY) + aux.losses['load_balance'], (y, aux)

    run = jax.jit(jax.grad(objective, argnums=(0, 1), has_aux=True))
    one = run(PARAMS, X)
    (d_params, d_x), (y, aux) = jax.device_get(one)
    desired, load, dropped = by_loop(router, None if factor is None else 1)
    assert_close(y, desired, 5e-6)
    assert_close(aux.stats['load'], load, 2e-6)
    np.testing.assert_allclose(aux.stats['dropped'], dropped, atol=1e-6)
    assert (dropped > 0) == (factor is not None)
    assert not np.any(y[~MASK])
    assert not np.any(d_x[~MASK])
    for leaf in jax.tree.leaves(d_params):
        assert np.all(np.isfinite(leaf))
        assert np.any(leaf)
    x = np.where(MASK[..., None], X, np.float32(np.nan))
    jax.tree.map(np.testing.assert_array_equal, run(PARAMS, x), one)
