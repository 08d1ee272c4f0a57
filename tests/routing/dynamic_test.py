"""Top-p and ReLU routing: how many experts a token has, and why."""

import jax
import numpy as np
import pytest

from moe.routing import SparsityRule, relu, top_p
from tests.reference import losses as reference_losses
from tests.routing.common import (
    KEY,
    PADDED,
    E,
    G,
    S,
    accounted,
    context,
    draw,
    gradient,
    run,
)


def test_top_p_takes_more_experts_for_an_unsure_token():
    # p = .5 of probabilities [.6, .2, .2]: one; of [.4, .35, .25]: two.
    gates = [[0.6, 0.2, 0.2], [0.4, 0.35, 0.25], [1 / 3, 1 / 3, 1 / 3]]
    logits = np.log(np.float32([gates]))
    routing = run(top_p, logits, context(shape=(1, 3)), p=0.5, k=3)
    assert routing.valid[0].sum(0).tolist() == [1, 2, 2]
    assert routing.expert[0, :2, 2].tolist() == [0, 1]  # ties: lowest index
    aux = accounted(routing)
    np.testing.assert_allclose(aux.stats['experts_per_token'], 5 / 3)


@pytest.mark.parametrize('k', [1, E])
@pytest.mark.parametrize('weighted', [False, True])
def test_relu_penalizes_gates_before_the_cap(k, weighted):
    logits = draw(0)
    rule = SparsityRule(sparsity=0.6, load_weighted=weighted)
    routing = run(relu, logits, context(PADDED), k=k, penalty=rule)
    gates = np.maximum(np.float64(logits), 0)
    # An expert's load is the share of the tokens with a gate for it, over
    # 1 - .6: it is 1 where every expert has as many as are wanted.
    load = np.mean(gates[PADDED] > 0, axis=0) / 0.4 if weighted else 1
    desired = reference_losses.l1(gates * load, PADDED)
    l1 = accounted(routing).losses['l1']
    np.testing.assert_allclose(l1, desired, rtol=1e-6)
    # The share of zero gates, which the penalty's update goes by.
    active, total = rule.statistic(routing, None)
    assert total == E * PADDED.sum()
    assert active == np.sum(gates[PADDED] > 0)


def test_a_cap_does_not_hide_how_many_gates_are_active():
    # Of 64 gates 32 are positive, 4 of them are used: the share of zeros is
    # .5, less than the .75 wanted, and not 60 / 64, so the penalty grows.
    logits = np.tile(np.float32([1, -1] * 32), (G, S, 1))
    routing = run(relu, logits, context())
    assert routing.expert.shape[1] == 4
    rule = SparsityRule()
    penalty = rule.update(np.float32(1e-8), rule.statistic(routing, None))
    np.testing.assert_allclose(penalty, 1.2e-8, rtol=1e-6)
    # 32 gates of 1, each with the load 1 / (1 - .75) = 4.
    assert accounted(routing).losses['l1'] == 32 * 4


def test_relu_gradients_are_finite_where_all_gates_are_zero():
    logits = np.full((G, S, E), -1, np.float32)
    got = gradient(relu, logits, context(), k=2)
    assert not np.any(got)


@pytest.mark.parametrize('router', [top_p, relu])
@pytest.mark.parametrize('k', [1, 2])
def test_trains_the_router(router, k):
    got = gradient(router, draw(0), context(), k=k)
    assert np.all(np.isfinite(got))
    # Every token of `draw` has a positive logit.
    assert np.all(np.any(np.abs(got) > 1e-3, axis=-1))


@pytest.mark.parametrize('router', [top_p, relu])
def test_ties_go_to_the_lowest_index(router):
    logits = np.ones((G, S, E), np.float32)
    routing = run(router, logits, context(), k=2)
    assert np.all(routing.expert == np.array([0, 1])[:, None])


@pytest.mark.parametrize('router', [top_p, relu])
def test_is_the_same_in_training(router):
    there = run(router, draw(0), context(key=KEY, train=True))
    here = run(router, draw(0), context())
    jax.tree.map(np.testing.assert_array_equal, there, here)


@pytest.mark.parametrize('router', [top_p, relu])
def test_more_choices_than_experts(router):
    with pytest.raises(ValueError, match='k = 6 of 5 experts'):
        router(np.zeros((G, S, E), np.float32), context(), k=6)
