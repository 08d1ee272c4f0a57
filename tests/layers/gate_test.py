"""The gate of a mixture layer: groups, jitter, projections and state."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.layers.gate import Gate, in_groups
from moe.routing import (
    ROUTERS,
    noisy_top_k,
    relu,
    sigmoid,
    top_k,
)
from moe.types import Context
from tests.reference.compare import assert_close
from tests.reference.selection import log_odds

G, S, D, E = 2, 6, 4, 5
POSITION = jnp.arange(G * S, dtype=jnp.int32).reshape(G, S)
CONTEXT = Context(jnp.ones((G, S), bool), POSITION)
KEY = jax.random.key(1)
X = np.random.default_rng(0).normal(size=(G, S, D)).astype(np.float32)
KERNEL = np.random.default_rng(1).normal(size=(D, E)).astype(np.float32)


def apply(gate, variables, x, context):
    return gate.apply({'params': variables}, x, context)


@pytest.mark.parametrize(
    ('shape', 'num_groups', 'grid'),
    [
        ((12,), None, (1, 12)),
        ((3, 4), None, (3, 4)),
        ((2, 3, 2), None, (6, 2)),
        ((3, 4), 2, (2, 6)),
    ],
)
def test_in_groups(shape, num_groups, grid):
    x = jnp.arange(24.0).reshape(*shape, 2)
    tokens, live = in_groups(x, None, num_groups)
    np.testing.assert_array_equal(tokens.reshape(24), np.arange(24))
    assert tokens.shape == (*grid, 2)
    assert live.shape == grid
    assert live.all()
    mask = np.arange(12).reshape(shape) % 3 > 0
    tokens, live = in_groups(x, mask, num_groups)
    np.testing.assert_array_equal(live.ravel(), np.arange(12) % 3 > 0)
    desired = np.where(mask.reshape(-1, 1), x.reshape(-1, 2), 0)
    np.testing.assert_array_equal(tokens.reshape(-1, 2), desired)


def test_in_groups_empties_padding_whatever_it_holds():
    x = jnp.array([[[jnp.nan], [2.0], [jnp.inf]]])
    tokens, _ = in_groups(x, jnp.array([[False, True, False]]), None)
    assert tokens.ravel().tolist() == [0, 2, 0]


def test_in_groups_refuses_what_does_not_divide():
    message = 'MoE: 12 tokens do not divide into num_groups = 5'
    with pytest.raises(ValueError, match=message):
        in_groups(jnp.ones((3, 4, 2)), None, 5)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_logits_are_a_product_in_float32(dtype):
    x = jnp.asarray(X, dtype)
    routing, state = apply(Gate(E), {'router': KERNEL}, x, CONTEXT)
    # bfloat16 tokens are rounded, their product with the kernel is not.
    desired = np.float64(np.float32(x)) @ np.float64(KERNEL)
    assert routing.logits.dtype == jnp.float32
    assert_close(routing.logits, desired, 1e-6)
    assert state == ({}, {})
    assert routing.priority is None


def test_jitter_is_of_training():
    # x is 1 and the kernel the identity: the logits are the noise itself.
    gate = Gate(D, functools.partial(top_k, k=1), 0.25)
    x, params = jnp.ones((G, S, D)), {'router': np.eye(D, dtype=np.float32)}
    context = CONTEXT._replace(key=KEY, train=True)
    noise = apply(gate, params, x, context)[0].logits
    assert np.all((noise >= 0.75) & (noise < 1.25))
    assert len(np.unique(noise)) == noise.size
    again = apply(gate, params, x, context)[0].logits
    np.testing.assert_array_equal(again, noise)
    quiet = apply(gate, params, x, context._replace(train=False))[0].logits
    assert np.all(quiet == 1)
    # It belongs to the position: tokens in another order bring theirs along.
    turned = context._replace(position=POSITION[::-1])
    other = apply(gate, params, x, turned)[0].logits
    np.testing.assert_array_equal(other, noise[::-1])
    with pytest.raises(ValueError, match="jitter needs an rng named 'router'"):
        apply(gate, params, x, CONTEXT._replace(train=True))


def test_jitter_is_not_the_routers_own_noise():
    # One key for both: the draws must not be the same ones.
    gate = Gate(D, noisy_top_k, 0.5)
    x, eye = jnp.ones((G, S, D)), np.eye(D, dtype=np.float32)
    params = {'router': eye, 'router_noise': 0 * eye}
    context = CONTEXT._replace(key=KEY, train=True)
    routing = apply(gate, params, x, context)[0]
    jitter = np.asarray(routing.logits) - 1
    noise = np.log(np.asarray(routing.probs)) - np.asarray(routing.logits)
    noise -= noise.mean(-1, keepdims=True)
    # 48 numbers: independent ones have a correlation of 1/7 or so.
    correlation = np.corrcoef(jitter.ravel(), noise.ravel())[0, 1]
    assert abs(correlation) < 0.6


def test_noise_projection_starts_at_zero():
    context = CONTEXT._replace(key=KEY, train=True)
    params = Gate(E, noisy_top_k).init(KEY, X, context)['params']
    assert sorted(params) == ['router', 'router_noise']
    assert params['router_noise'].shape == params['router'].shape == (D, E)
    assert not np.any(params['router_noise'])
    assert np.all(params['router'] != 0)


def test_noise_projection_is_what_the_router_gets():
    seen = []

    def spy(logits, context):
        seen.append(context.noise_logits)
        return top_k(logits, context)

    spy.traits = noisy_top_k.traits
    kernel = KERNEL[:, ::-1].copy()
    params = {'router': KERNEL, 'router_noise': kernel}
    apply(Gate(E, spy), params, X, CONTEXT)
    assert_close(seen[0], np.float64(X) @ np.float64(kernel), 1e-6)


def test_state_of_routers():
    # What a router does not read, its gate does not have.
    expected = {'sigmoid': ['bias'], 'group_limited': ['bias']}
    expected['relu'] = ['penalty']
    for name, router in ROUTERS.items():
        if name in ('soft', 'hash', 'group_limited'):
            continue
        variables = jax.eval_shape(
            lambda router=router: Gate(E, router).init(
                KEY, X, CONTEXT._replace(key=KEY)
            )
        )
        state = variables.get('router_state', {})
        assert sorted(state) == expected.get(name, []), name
    state = Gate(E, sigmoid).init(KEY, X, CONTEXT)['router_state']
    assert state['bias'].shape == (E,)
    assert not np.any(state['bias'])
    state = Gate(E, relu).init(KEY, X, CONTEXT)['router_state']
    assert state['penalty'] == np.float32(1e-8)


def test_state_reaches_the_router():
    # A bias of 2 on one expert outweighs any sigmoid.
    gate = Gate(E, functools.partial(sigmoid, k=1))
    bias = jnp.zeros(E).at[3].set(2.0)
    variables = {'params': {'router': KERNEL}, 'router_state': {'bias': bias}}
    routing, state = gate.apply(variables, X, CONTEXT)
    assert np.all(routing.expert == 3)
    np.testing.assert_array_equal(state.values['bias'], bias)
    assert state.statistics == {}
    _, state = gate.apply(variables, X, CONTEXT._replace(train=True))
    (path,) = state.statistics
    assert path == 'bias'
    load = [0, 0, 0, G * S, 0]
    np.testing.assert_array_equal(state.statistics[path].value, load)
    state = {'penalty': jnp.array(0.5)}
    variables = {'params': {'router': KERNEL}, 'router_state': state}
    _, state = Gate(E, relu).apply(variables, X, CONTEXT)
    assert state.values == {'penalty': 0.5}


@pytest.mark.parametrize('factor', [1, 30, 1000])
def test_priority_is_the_order_of_the_largest_probability(factor):
    # At 30 times the logits some are 1 in float32, at 1000 times all.
    gate, kernel = Gate(E, batch_prioritized=True), np.float32(factor) * KERNEL
    routing, _ = apply(gate, {'router': kernel}, X, CONTEXT)
    logits = np.float64(X) @ np.float64(kernel)
    odds = np.array([[log_odds(row).max() for row in rows] for rows in logits])
    order = np.argsort(-odds, axis=-1)
    np.testing.assert_array_equal(np.argsort(-routing.priority), order)
    saturated = np.sum(np.max(routing.probs, axis=-1) == 1)
    assert {1: saturated == 0, 30: saturated > 0, 1000: saturated > 10}[factor]


def test_initializer_of_the_kernel():
    ones = jax.nn.initializers.ones
    params = Gate(E, router_init=ones).init(KEY, X, CONTEXT)['params']
    assert np.all(params['router'] == 1)


def test_initializer_of_the_noise():
    ones = jax.nn.initializers.ones
    gate = Gate(E, noisy_top_k, noise_init=ones)
    params = gate.init(KEY, X, CONTEXT)['params']
    assert np.all(params['router_noise'] == 1)


def test_a_bias_does_not_bring_dropped_experts_back():
    gate = Gate(E, functools.partial(sigmoid, k=1), dropout=0.7)
    state = {'bias': jnp.float32([9, 0, 0, 0, 5])}
    variables = {'params': {'router': KERNEL}, 'router_state': state}
    train = CONTEXT._replace(train=True, key=KEY)
    routing, _ = gate.apply(variables, X, train)
    there = routing.logits > -1e8
    assert not there.all()
    # Of those that are there the ones of greatest bias.
    best = np.where(there[..., 0], 0, np.where(there[..., 4], 4, -1))
    chosen = routing.expert[:, 0]
    assert np.all((chosen == best) | (best == -1))
    assert np.all(np.take_along_axis(there, chosen[..., None], -1))


def test_temperature_divides_the_logits():
    gate = Gate(E, temperature=2.0)
    logits = apply(gate, {'router': KERNEL}, X, CONTEXT)[0].logits
    assert_close(logits, np.float64(X) @ np.float64(KERNEL) / 2, 1e-6)


def test_dropout_takes_experts_out_of_reach():
    # 2000 tokens of 5 experts, each dropped with .3: .3 of them are, but for
    # .3^5 = .24 % of the tokens, where one of the five stays; 5 standard
    # deviations of 10000 draws are .023.
    size = 2000
    position = jnp.arange(size, dtype=jnp.int32)[None]
    context = Context(jnp.ones((1, size), bool), position, KEY, train=True)
    x = jnp.ones((1, size, D))
    everyone = functools.partial(top_k, k=E, renormalize=False)
    kept_of = {}
    for rate in (0.3, 1.0):
        gate = Gate(E, everyone, dropout=rate)
        routing = apply(gate, {'router': KERNEL}, x, context)[0]
        probs = np.asarray(routing.probs)[0]
        kept_of[rate] = kept = probs > 0
        # The softmax over what is left.
        powers = np.exp(np.sum(np.float64(KERNEL), axis=0)) * kept
        assert_close(probs, powers / powers.sum(1, keepdims=True), 1e-5)
    np.testing.assert_allclose(np.mean(~kept_of[0.3]), 0.3, atol=0.025)
    assert np.all(np.any(kept_of[0.3], axis=1))
    # If all are to go, one stays, whichever.
    assert np.all(np.sum(kept_of[1.0], axis=1) == 1)
    assert np.all(np.any(kept_of[1.0], axis=0))
    gate = Gate(E, everyone, dropout=0.3)
    still = context._replace(train=False)
    routing = apply(gate, {'router': KERNEL}, x, still)[0]
    assert np.all(np.asarray(routing.probs) > 0)
    with pytest.raises(ValueError, match="dropout needs an rng named 'router'"):
        apply(gate, {'router': KERNEL}, x, context._replace(key=None))
