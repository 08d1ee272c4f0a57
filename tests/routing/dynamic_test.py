"""Top-p and ReLU routing: how many experts a token has, and why."""

import jax
import numpy as np
import pytest

from moe.routing import relu, top_p
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


def test_relu_l1_is_the_mean_sum_of_gates():
    logits = draw(0)
    aux = accounted(run(relu, logits, context(PADDED), k=E))
    gates = np.maximum(np.float64(logits), 0)
    desired = reference_losses.l1(gates, PADDED)
    np.testing.assert_allclose(aux.losses['l1'], desired, rtol=1e-6)
    # The share of zero gates, which the penalty's update goes by.
    share = 1 - aux.stats['experts_per_token'] / E
    np.testing.assert_allclose(share, np.mean(gates[PADDED] == 0), rtol=1e-6)


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
