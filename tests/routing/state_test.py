"""State of routers: how biases and penalties move after a step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.config import ConfigError
from moe.routing import (
    BALANCE_RULES,
    PENALTY_RULES,
    SignRule,
    SparsityRule,
    top_k,
    update_router_state,
)
from moe.types import StateStatistic
from tests.routing.common import PADDED, E, context, draw


def test_known_bias():
    # Mean 4: an overloaded expert goes down, an underloaded one up.
    load = jnp.array([5.0, 4.0, 3.0, 4.0])
    bias = SignRule(0.01).update(jnp.zeros(4), load)
    np.testing.assert_allclose(bias, [-0.01, 0, 0.01, 0], atol=1e-9)


def test_bias_is_centred_and_accumulates():
    # signs [-1, 1, 1, 1] minus their mean 1/2.
    load = jnp.array([8.0, 0.0, 0.0, 0.0])
    start = jnp.array([0.5, -0.5, 0.25, -0.25])
    bias = SignRule(0.1).update(start, load)
    change = [-0.15, 0.05, 0.05, 0.05]
    np.testing.assert_allclose(bias, start + jnp.array(change), rtol=1e-6)
    np.testing.assert_allclose(np.sum(bias), 0, atol=1e-6)


def test_bias_does_not_depend_on_the_unit_of_the_load():
    load, rule = jnp.array([5.0, 4.0, 3.0, 4.0]), SignRule(0.01)
    one = rule.update(jnp.zeros(4), load)
    np.testing.assert_array_equal(one, rule.update(one * 0, load / 4))
    assert not np.any(SignRule(0.0).update(jnp.zeros(4), load))


@pytest.mark.parametrize(
    ('share', 'factor'), [(0.5, 1.2), (0.75, 1.0), (0.9, 1 / 1.2)]
)
def test_penalty(share, factor):
    # Too few zeros: the penalty grows; too many: it shrinks.
    statistic = (jnp.array(40 * (1 - share)), jnp.array(40.0))
    got = SparsityRule().update(jnp.array(0.01), statistic)
    np.testing.assert_allclose(got, 0.01 * factor, rtol=1e-6)


def test_initial_values():
    bias, penalty = SignRule().init(6), SparsityRule().init(6)
    assert bias.shape == (6,)
    assert not np.any(bias)
    assert penalty.shape == ()
    assert penalty == np.float32(1e-8)
    assert bias.dtype == penalty.dtype == jnp.float32


def test_rules_are_registered():
    assert BALANCE_RULES['sign'] is SignRule
    assert PENALTY_RULES['sparsity'] is SparsityRule


def test_statistics_are_sums_over_tokens():
    # Of the whole batch the sum of its parts', padding left out.
    logits = draw(0)
    whole = top_k(logits, context(PADDED), k=2)
    parts = [
        top_k(
            logits[g : g + 1],
            context(PADDED)._replace(
                mask=PADDED[g : g + 1], position=jnp.zeros((1, 6), jnp.int32)
            ),
            k=2,
        )
        for g in range(2)
    ]
    for rule in (SignRule(), SparsityRule()):
        value = rule.init(E)
        each = [rule.statistic(part, value) for part in parts]
        total = jax.tree.map(lambda a, b: a + b, *each)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b),
            rule.statistic(whole, value),
            total,
        )
    load = SignRule().statistic(whole, jnp.zeros(E))
    count = np.zeros(E)
    for g, k, s in np.argwhere(whole.valid):
        count[whole.expert[g, k, s]] += 1
    np.testing.assert_array_equal(load, count)
    active, gates = SparsityRule().statistic(whole, jnp.zeros(()))
    assert (active, gates) == (2 * PADDED.sum(), E * PADDED.sum())


def test_update_is_each_one_of_any_stack():
    # Two layers of three groups of experts: as if each were alone.
    rng = np.random.default_rng(0)
    load = rng.random((2, 3, 4)).astype(np.float32)
    bias = rng.normal(size=(2, 3, 4)).astype(np.float32)
    rule = SignRule(0.1)
    statistics = {'moe/inner/bias': StateStatistic(load, rule, 4)}
    state = {'moe': {'inner': {'bias': bias}}, 'other': {'bias': bias[0]}}
    new = update_router_state(state, statistics)
    for i in np.ndindex(2, 3):
        one = rule.update(bias[i], load[i])
        np.testing.assert_allclose(new['moe']['inner']['bias'][i], one, 1e-6)
    # What has no statistic stays, and what was given is not changed.
    assert new['other'] is state['other']
    assert state['moe']['inner']['bias'] is bias


@pytest.mark.parametrize(
    ('layers', 'factors'),
    [('all', [1.2, 1.2, 1.2]), ('each', [1.2, 1.2, 1 / 1.2])],
)
def test_one_penalty_for_all_layers(layers, factors):
    # Two stacked layers with 12 and 6 of 16 gates active, a third with 2: in
    # all 20 of 48, a share of zeros of .583, where .75 are wanted. By itself
    # the third has .875.
    rule = SparsityRule(layers=layers)
    both = (jnp.array([12.0, 6.0]), jnp.array([16.0, 16.0]))
    one = (jnp.array(2.0), jnp.array(16.0))
    statistics = {
        'scan/penalty': StateStatistic(both, rule, 4),
        'last/penalty': StateStatistic(one, rule, 4),
    }
    value = jnp.float32(0.01)
    state = {
        'scan': {'penalty': jnp.full(2, value)},
        'last': {'penalty': value},
    }
    new = update_router_state(state, statistics)
    found = [*new['scan']['penalty'], new['last']['penalty']]
    np.testing.assert_allclose(found, 0.01 * np.array(factors), rtol=1e-6)


def test_nothing_to_leave_active_is_an_error():
    with pytest.raises(ConfigError, match=r'sparsity = 1\.0: must be less'):
        SparsityRule(sparsity=1.0)


@dataclasses.dataclass(frozen=True)
class Momentum:
    """A rule whose value and statistic are trees: a bias with momentum."""

    decay: float = 0.5

    def init(self, num_experts):
        zeros = jnp.zeros((num_experts,))
        return {'bias': zeros, 'velocity': zeros, 'step': jnp.zeros(())}

    def statistic(self, routing, value):
        below = routing.probs[..., None] > jnp.array([0.1, 0.5])
        return {
            'histogram': jnp.sum(below * routing.mask[..., None, None], (0, 1)),
            'tokens': jnp.sum(routing.mask),
        }

    def update(self, value, statistic):
        share = statistic['histogram'][:, 0] / statistic['tokens']
        velocity = self.decay * value['velocity'] + share
        return {
            'bias': value['bias'] - velocity,
            'velocity': velocity,
            'step': value['step'] + 1,
        }


@pytest.mark.parametrize('stack', [(), (3,), (2, 3)])
def test_values_and_statistics_are_trees(stack):
    rule = Momentum()
    routing = top_k(draw(0), context(PADDED), k=2)
    value = rule.init(E)
    statistic = rule.statistic(routing, value)
    many = lambda tree: jax.tree.map(
        lambda x: jnp.broadcast_to(x, stack + x.shape), tree
    )
    state = {'bias': many(value)}
    given = {'bias': StateStatistic(many(statistic), rule, E)}
    for _ in range(2):
        state = update_router_state(state, given)
    once = rule.update(rule.update(value, statistic), statistic)
    assert state['bias']['step'].shape == stack
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        state['bias'],
        many(once),
    )
    assert np.any(once['bias'])


def test_bias_balances_a_skewed_router():
    # A thousand tokens prefer expert 0 by far; moved for 300 steps, the bias
    # brings every load near 1.
    rng = np.random.default_rng(0)
    logits = rng.normal([1.5, 0.5, 0, -1], size=(1000, 4))
    scores = 1 / (1 + np.exp(-logits))
    rule = SignRule(0.005)

    def load(bias):
        chosen = np.argmax(scores + np.asarray(bias), axis=1)
        return np.float32(np.bincount(chosen, minlength=4) / 250)

    bias = np.zeros(4, np.float32)
    assert load(bias).max() > 2
    for _ in range(300):
        bias = np.asarray(rule.update(bias, load(bias)))
    assert load(bias).max() < 1.1
    assert load(bias).min() > 0.9
