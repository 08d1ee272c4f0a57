"""What routers declare: traits, and states with rules."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from moe.routing import SignRule, relu, sigmoid, top_k
from moe.traits import StateStatistic, states_of, traits, traits_of


def test_traits_are_declared_and_have_defaults():
    @traits(reads=['token_id'], looks_ahead='always')
    def router(logits, context, *, k: int = 1):
        return logits

    assert traits_of(router).reads == {'token_id'}
    assert traits_of(functools.partial(router, k=2)).looks_ahead == 'always'
    assert states_of(router) == {}
    plain = traits_of(lambda logits, context: logits)
    assert traits_of(top_k) == dataclasses.replace(plain, replays=True)


def test_states_have_the_routers_options():
    assert states_of(sigmoid) == {'bias': SignRule()}
    changed = functools.partial(sigmoid, balance=SignRule(rate=0.5), k=1)
    assert states_of(changed) == {'bias': SignRule(rate=0.5)}
    assert list(states_of(relu)) == ['penalty']


def test_statistics_know_their_rule_and_add_up():
    one = StateStatistic(jnp.ones(3), SignRule(), 3)
    total = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b))(one, one)
    assert total.rule == SignRule()
    assert total.num_experts == 3
    np.testing.assert_array_equal(total.value, [2, 2, 2])
