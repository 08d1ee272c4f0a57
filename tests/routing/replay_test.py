"""Replay: experts are given, weights follow by each router's own rule."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.config import ConfigError
from moe.dispatch import DISPATCHERS
from moe.experts import MLP
from moe.layers import MoE, SoftMoE
from moe.routing import (
    ROUTERS,
    checked_routes,
    recorded_routes,
    replaying,
)
from moe.types import traits, traits_of
from tests.reference.routing import softmax
from tests.routing.common import FULL, PADDED, E, G, S, context, draw

pytestmark = pytest.mark.slow

K = 2
OPTIONS = {
    'group_limited': {'k': K, 'expert_groups': 3, 'chosen_groups': 2},
    'hash': {'k': K, 'vocab_size': 16},
    'relu': {'k': K},
    'sigmoid': {'k': K, 'scale': 1.5},
    'sinkhorn': {'k': K, 'iterations': 3},
    'top_p': {'k': K, 'p': 0.5},
}
REPLAYED = [n for n in ROUTERS if traits_of(ROUTERS[n]).replays]
N = 6  # experts, three groups of two


def router_of(name, **options):
    return functools.partial(ROUTERS[name], **OPTIONS.get(name, {}), **options)


def given(mask=FULL, train=True, **fields):
    """A context with all that a router may read, its bias not at rest."""
    bias = jnp.linspace(-0.3, 0.3, N)
    fields.setdefault('key', jax.random.key(3))
    noise = jnp.asarray(draw(8, (G, S, N)))
    ids = jnp.asarray(np.arange(G * S).reshape(G, S), jnp.int32)
    return context(
        mask, bias=bias, train=train, noise_logits=noise, token_id=ids, **fields
    )


def values(router, logits, ctx):
    """The Routing, and the gradient of all weights, each times its own."""

    def objective(logits):
        routing = router(logits, ctx)
        factor = jnp.arange(1.0, 1 + logits.shape[-1])
        weight = jnp.where(routing.valid, routing.weight, 0)
        total = jnp.sum(weight * factor[routing.assignment_expert()])
        return total, routing

    return jax.grad(objective, has_aux=True)(jnp.asarray(logits))


def of_one_layer(routing):
    """The routes [G, S, K] of a Routing that is not stacked."""
    stacked = jax.tree.map(lambda leaf: leaf[None], routing)
    return recorded_routes(stacked, (G, S))[:, :, 0]


@pytest.mark.parametrize('train', [True, False])
@pytest.mark.parametrize('name', REPLAYED)
def test_its_own_choice_replayed_changes_no_bit(name, train):
    for seed, mask in ((0, FULL), (1, PADDED)):
        router, ctx = router_of(name), given(mask, train)
        logits = draw(seed, (G, S, N))
        desired = values(router, logits, ctx)
        ctx = ctx._replace(routes=of_one_layer(desired[1]))
        gradient, routing = values(replaying(router), logits, ctx)
        np.testing.assert_array_equal(gradient, desired[0])
        np.testing.assert_array_equal(routing.gates(), desired[1].gates())
        np.testing.assert_array_equal(routing.valid, desired[1].valid)


def forced(logits, routes, name, **options):
    """The gates of one token [E], evaluated, with routes [K]."""
    ctx = given(np.ones((1, 1), bool), False, shape=(1, 1))
    ctx = ctx._replace(
        token_id=jnp.zeros((1, 1), jnp.int32),
        noise_logits=None,
        routes=jnp.asarray([[routes]], jnp.int32),
    )
    router = functools.partial(ROUTERS[name], **options)
    logits = jnp.asarray([[logits]], jnp.float32)
    return np.asarray(replaying(router)(logits, ctx).gates())[0, 0]


# Probabilities 0.4, 0.3, 0.2, 0.1 and next to nothing for the other two; the
# experts 3 and 1, which no router would choose.
LOGITS = np.log([0.4, 0.3, 0.2, 0.1, 1e-12, 1e-12])
SIGMOID = 1 / (1 + np.exp(-LOGITS))  # p / (1 + p)


@pytest.mark.parametrize(
    ('name', 'options', 'weights'),
    [
        ('top_k', {}, (0.25, 0.75)),
        ('top_k', {'renormalize': False}, (0.1, 0.3)),
        ('noisy_top_k', {}, (0.25, 0.75)),
        ('top_p', {'k': 2}, (0.1, 0.3)),
        ('top2', {}, (0.25, 0.75)),
        ('hash', {'k': 2}, (0.5, 0.5)),
        ('random', {}, (0.5, 0.5)),
        ('sinkhorn', {'k': 2}, (SIGMOID[3], SIGMOID[1])),
        (
            'sigmoid',
            {'scale': 2.0},
            2 * SIGMOID[[3, 1]] / (SIGMOID[3] + SIGMOID[1]),
        ),
        ('sigmoid', {'renormalize': False}, SIGMOID[[3, 1]]),
        (
            'group_limited',
            {'k': 2, 'expert_groups': 3, 'chosen_groups': 1},
            SIGMOID[[3, 1]] / (SIGMOID[3] + SIGMOID[1]),
        ),
        ('relu', {'k': 2}, (0.0, 0.0)),
    ],
    ids=str,
)
def test_weights_of_other_experts_are_those_by_hand(name, options, weights):
    gates = forced(LOGITS, [3, 1], name, **options)
    desired = np.zeros(6)
    desired[[3, 1]] = weights
    np.testing.assert_allclose(gates, desired, rtol=1e-5, atol=1e-7)


def test_what_is_normalised_is_over_the_experts_that_exist():
    for name in ('top_k', 'noisy_top_k', 'sigmoid'):
        for routes, found in (([2, -1], {2: 1.0}), ([-1, -1], {})):
            gates = forced(LOGITS, routes, name, k=2)
            desired = [found.get(e, 0.0) for e in range(6)]
            np.testing.assert_allclose(gates, desired, rtol=1e-6, err_msg=name)
    # A second expert that top2 dropped still counts in the first's weight.
    gates = forced(LOGITS, [1, -1], 'top2')
    np.testing.assert_allclose(gates[1], 0.3 / (0.3 + 0.4), rtol=1e-6)
    assert not np.any(gates[[0, 2, 3, 4, 5]])


def test_gradients_are_those_of_the_softmax_over_the_forced_experts():
    logits = draw(2, (G, S, N))
    routes = np.stack([np.full((G, S), 4), np.arange(G * S).reshape(G, S) % 4])
    routes = np.moveaxis(routes, 0, -1).astype(np.int32)
    ctx = given()._replace(routes=jnp.asarray(routes))
    actual, _ = values(replaying(router_of('top_k')), logits, ctx)
    for g, s in np.ndindex(G, S):
        chosen = routes[g, s]
        p = softmax(np.float64(logits[g, s, chosen]))
        factor = 1.0 + chosen
        desired = np.zeros(N)
        desired[chosen] = p * (factor - p @ factor)
        np.testing.assert_allclose(actual[g, s], desired, atol=1e-6)
        assert np.abs(desired).max() > 1e-3


def layer_of(name, **options):
    experts = MLP(hidden=3, num_experts=N, parent=None)
    return MoE(experts, router_of(name), **options)


@pytest.mark.parametrize('name', ['top_k', 'sigmoid', 'top_p'])
def test_a_layer_replays_what_it_recorded_with_every_dispatcher(name):
    x = np.random.default_rng(0).standard_normal((G, S, 4)).astype(np.float32)
    layer = layer_of(name)
    variables = layer.init(jax.random.key(0), x)

    def run(layer, x, mask, routes=None):
        def objective(params):
            y, aux = layer.apply(
                {**variables, 'params': params},
                x,
                mask=mask,
                routes=routes,
                record=True,
            )
            return jnp.sum(jnp.sin(y)), (y, aux)

        return jax.grad(objective, has_aux=True)(variables['params'])

    gradient, (y, aux) = run(layer, x, PADDED)
    routes = of_one_layer(aux.routing)
    assert np.all((np.asarray(routes) >= 0).any(-1) == PADDED)
    again = run(layer, x, PADDED, routes)
    jax.tree.map(np.testing.assert_array_equal, again[0], gradient)
    np.testing.assert_array_equal(again[1][0], y)
    # Other experts: every dispatcher has the same outputs, not the old ones.
    other = jnp.where(routes < 0, -1, (routes + 1) % N)
    found = [
        run(layer_of(name, dispatcher=d), x, PADDED, other)[1][0]
        for d in DISPATCHERS
    ]
    for one in found:
        np.testing.assert_allclose(one, found[0], atol=1e-6)
    assert np.max(np.abs(found[0] - y)) > 1e-3


def test_what_has_no_choice_to_replay_is_refused():
    x, routes = jnp.zeros((1, 4, 3)), jnp.zeros((1, 4, K), jnp.int32)
    assert set(ROUTERS) - set(REPLAYED) == {'expert_choice', 'soft'}
    with pytest.raises(ConfigError, match="'expert_choice': must be a router"):
        layer_of('expert_choice').init(jax.random.key(0), x, routes=routes)
    soft = SoftMoE(MLP(hidden=3, num_experts=N, parent=None))
    with pytest.raises(ConfigError, match='None for a soft mixture'):
        soft.init(jax.random.key(0), x, routes=routes)

    @traits(reads=())
    def mine(logits, context):
        return ROUTERS['top_k'](logits, context)

    with pytest.raises(ConfigError, match="'mine'"):
        replaying(mine)


def test_routes_of_another_k_are_refused():
    ctx = given()._replace(routes=jnp.zeros((G, S, 3), jnp.int32))
    with pytest.raises(ConfigError) as error:
        replaying(router_of('top_k'))(draw(0, (G, S, N)), ctx)
    assert str(error.value) == (
        f'shape of routes = ({G}, {S}, 3): must be ({G}, {S}, 2), of the 2 '
        'choices of a token'
    )


def test_recorded_routes_are_by_token_then_layer():
    # Two layers, two groups of three tokens that were three rows of two.
    expert = np.arange(2 * 2 * 2 * 3).reshape(2, 2, 2, 3).astype(np.int32)
    valid = expert != 8  # the second choice of one token
    routing = ROUTERS['top_k'](jnp.zeros((2, 3, E)), Ctx)
    routing = routing.replace(expert=jnp.asarray(expert), valid=valid)
    routes = np.asarray(recorded_routes(routing, (3, 2)))
    assert routes.shape == (3, 2, 2, 2)
    assert routes.dtype == np.int32
    for layer, group, k, s in np.ndindex(expert.shape):
        row, column = divmod(group * 3 + s, 2)
        desired = expert[layer, group, k, s]
        desired = -1 if desired == 8 else desired
        assert routes[row, column, layer, k] == desired
    with pytest.raises(ConfigError, match='at one level'):
        recorded_routes((routing, routing), (3, 2))


Ctx = context(np.ones((2, 3), bool), shape=(2, 3))


def test_routes_from_elsewhere_are_checked():
    good = np.array([[[[0, 2]], [[1, -1]], [[-1, -1]]]], np.int16)
    found = checked_routes(good, (1, 3, 1), 3)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, good)
    for wrong, message in (
        (good[:, :2], r'shape of routes = \(1, 2, 1, 2\)'),
        (good.astype(np.float32), "'float32': must be whole numbers"),
        (np.where(good == 2, 3, good), 'routes = 3: must be from 0 to 2'),
        (np.where(good == 2, -2, good), 'routes = -2'),
        (np.where(good == 2, 0, good), r'routes\[0, 0, 0\] = \[0, 0\]'),
    ):
        with pytest.raises(ConfigError, match=message):
            checked_routes(wrong, (1, 3, 1), 3)
