"""The state of the routers of a two-level mixture, and what is seen of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.routing import (
    SignRule,
    SparsityRule,
    relu,
    sigmoid,
    top_k,
    update_router_state,
)
from tests.layers.hierarchical_test import MASK, M, X, build, variables_of
from tests.reference.compare import assert_close

pytestmark = pytest.mark.slow

BIAS = [
    functools.partial(sigmoid, k=1, balance=SignRule(rate))
    for rate in (0.5, 0.01)
]
PENALTY = [
    functools.partial(
        relu, k=2, penalty=SparsityRule(sparsity, rate, layers='each')
    )
    for sparsity, rate in ((0.4, 2.0), (0.6, 3.0))
]


@pytest.mark.parametrize('name', ['bias', 'penalty'])
def test_states_move_by_the_statistics_of_their_own_level(name):
    # Under jit, by the rule of the level's own router; by hand from who went
    # where.
    outer, inner = {'bias': BIAS, 'penalty': PENALTY}[name]
    layer = build(outer, inner)
    variables = variables_of(layer)

    @jax.jit
    def step(variables):
        _, aux = layer.apply(variables, X, mask=MASK, train=True, record=True)
        before = variables['router_state']
        return aux, update_router_state(before, aux.state_statistics)

    aux, after = jax.device_get(step(variables))
    before = variables['router_state']
    levels = {
        'outer': (outer, [aux.routing[0]], [before['outer'][name]]),
        'inner': (
            inner,
            [
                jax.tree.map(lambda v, m=m: v[m], aux.routing[1])
                for m in range(M)
            ],
            before['inner'][name],
        ),
    }
    assert sorted(after) == sorted(levels)
    for level, (router, routings, values) in levels.items():
        assert_close(
            aux.stats[f'{level}_state/{name}'], before[level][name], 1e-6
        )
        moved = np.reshape(after[level][name], np.shape(values))
        rule = router.keywords.get('balance') or router.keywords['penalty']
        for routing, value, new in zip(routings, values, moved, strict=True):
            chosen = routing.expert[routing.valid]
            count = np.bincount(chosen, minlength=routing.num_experts)
            if name == 'bias':
                change = rule.rate * np.sign(count.mean() - count)
                desired = value + change - change.mean()
            else:
                total = routing.mask.sum() * routing.num_experts
                gates = routing.penalized_gates[routing.mask]
                share = 1 - np.sum(gates > 0) / max(total, 1)
                desired = value * rule.rate ** np.sign(rule.sparsity - share)
            np.testing.assert_allclose(new, desired, rtol=1e-5, atol=1e-7)


def test_a_statistic_of_a_routers_own_does_not_vanish():
    layer = build(BIAS[0], functools.partial(top_k, k=1))
    extra = {'first': lambda summary: jnp.sum(summary.gates[..., 0])}
    layer = layer.clone(inner=layer.inner.clone(losses=extra))
    _, aux = layer.apply(variables_of(layer), X, mask=MASK, train=True)
    assert aux.stats['outer_state/bias'].shape == (M,)
    assert 'first' in aux.losses
    assert np.isfinite(aux.losses['first'])
