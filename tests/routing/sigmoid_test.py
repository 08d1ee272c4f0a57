"""Sigmoid scores with a selection bias, and group-limited ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.routing import SignRule, group_limited, sigmoid
from tests.routing.common import (
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

# Greater than the scores' differences: it changes choices.
BIAS = np.float32([0.3, -0.4, 0.0, 0.2, -0.1])


def test_group_limited_takes_negative_scores_before_forbidden_ones():
    # Group 0 wins by expert 0 alone; expert 1, though its biased score is far
    # below zero, comes before the experts of the other group.
    logits = np.zeros((G, S, 4), np.float32)
    bias = np.float32([9, -5, 0.5, 0.5])
    routing = run(
        group_limited,
        logits,
        context(bias=bias),
        k=2,
        expert_groups=2,
        chosen_groups=1,
    )
    assert np.all(routing.expert[:, 0] == 0)
    assert np.all(routing.expert[:, 1] == 1)


def test_the_bias_selects_but_does_not_weigh():
    logits = draw(0)
    plain = run(sigmoid, logits, context(bias=np.zeros(E, np.float32)), k=E)
    biased = run(sigmoid, logits, context(bias=BIAS), k=E)
    assert np.any(plain.expert != biased.expert)
    np.testing.assert_array_equal(plain.probs, biased.probs)
    by_expert = lambda r: np.take_along_axis(
        r.weight, np.argsort(r.expert, axis=1), axis=1
    )
    np.testing.assert_allclose(by_expert(plain), by_expert(biased), rtol=1e-6)


@pytest.mark.parametrize(
    ('logits', 'chosen', 'weights'),
    [
        # 1 / (1 + e^-1) = .731; all scores are 0 in float32.
        ([-100, -95, -93, -92], [3, 2], [0.731059, 0.268941]),
        # All scores are 1 in float32.
        ([18, 19, 17.5, 30], [3, 1], [0.5, 0.5]),
    ],
)
def test_scores_that_are_equal_in_float32(logits, chosen, weights):
    logits = np.tile(np.float32(logits), (G, S, 1))
    zeros = np.zeros(4, np.float32)
    one_group = {'expert_groups': 1, 'chosen_groups': 1}
    for router, options in ((sigmoid, {}), (group_limited, one_group)):
        # The same bias of all changes nothing, though it hides small scores.
        for bias in (zeros, zeros + np.float32(0.3)):
            found = run(router, logits, context(bias=bias), k=2, **options)
            assert found.expert[0, :, 0].tolist() == chosen
            np.testing.assert_allclose(found.weight[0, :, 0], weights, 1e-5)


def test_weights_of_experts_that_the_bias_brings():
    # Beside expert 0 their scores are nothing: e^-100 and e^-95, whose shares
    # are 1 / (1 + e^5) = .0067 and .9933.
    logits = np.tile(np.float32([20, -100, -95]), (G, S, 1))
    bias = np.float32([-2, 0, 0])
    found = run(sigmoid, logits, context(bias=bias), k=2)
    assert found.expert[0, :, 0].tolist() == [2, 1]
    desired = [0.9933071, 0.0066929]
    np.testing.assert_allclose(found.weight[0, :, 0], desired, 1e-5)


def test_a_group_scores_by_two_experts_or_by_its_share_of_k():
    # s = .9, .1 | .6, .6 | .5, .3 | .2, .2, with K = 2 from 2 groups. By two
    # experts: 1.0, 1.2, .8, .4; by 2 / 2 = 1: .9, .6, .5, .2.
    p = np.array([0.9, 0.1, 0.6, 0.6, 0.5, 0.3, 0.2, 0.2])
    logits = np.tile(np.float32(np.log(p / (1 - p))), (G, S, 1))
    given = {'k': 1, 'expert_groups': 4, 'chosen_groups': 1}
    ctx = context(bias=np.zeros(8, np.float32))
    for scored, best in ((2, 2), (None, 0), (9, 2)):
        found = run(group_limited, logits, ctx, scored_experts=scored, **given)
        assert np.all(found.expert == best)
    # Equal for DeepSeek-V3, whose K = 8 and M = 4: 8 / 4 = 2.
    wide = draw(0, (G, S, 64))
    given = {'k': 8, 'expert_groups': 8, 'chosen_groups': 4}
    ctx = context(bias=np.zeros(64, np.float32))
    two, share = (
        run(group_limited, wide, ctx, scored_experts=scored, **given)
        for scored in (2, None)
    )
    np.testing.assert_array_equal(two.expert, share.expert)


def test_which_losses_see_the_bias():
    # Scores .8, .2 and .6, .4 with a bias of .5 for expert 1: .8 > .7, but
    # .6 < .9, so one token each. P = [.7, .3]. By scores alone both tokens go
    # to expert 0: the loss of the sequence is 2 (1 * .7) = 1.4; the loads are
    # balanced, 2 (.5 * .7 + .5 * .3) = 1.
    p = np.array([[[0.8, 0.2], [0.6, 0.4]]])
    logits = np.float32(np.log(p / (1 - p)))
    ctx = context(shape=(1, 2), bias=np.float32([0, 0.5]))
    for router, options in (
        (sigmoid, {}),
        (group_limited, {'expert_groups': 2, 'chosen_groups': 1}),
    ):
        routing = run(router, logits, ctx, k=1, **options)
        assert routing.expert.ravel().tolist() == [0, 1]
        aux = accounted(routing)
        balance = aux.losses['sequence_balance'], aux.losses['load_balance']
        np.testing.assert_allclose(balance, [1.4, 1.0], rtol=1e-6)
        assert aux.stats['load'].tolist() == [1, 1]
        load = SignRule().statistic(routing, ctx.state['bias'])
        assert load.tolist() == [1, 1]


def test_no_gradient_moves_the_bias():
    def objective(bias):
        routing = sigmoid(draw(0), context(bias=bias))
        losses = auxiliary_of(routing).losses
        return jnp.sum(routing.weight**2) + sum(losses.values())

    assert not np.any(jax.jit(jax.grad(objective))(jnp.asarray(BIAS)))


@pytest.mark.parametrize('router', [sigmoid, group_limited])
@pytest.mark.parametrize('level', [-60.0, -100.0])
def test_a_collapsed_router_cannot_hide_in_small_scores(router, level):
    # All scores are next to nothing, but expert 0's is e^5 times the others':
    # all first choices are 0, whose probability is 1 / (1 + 7 e^-5) = .955.
    logits = np.full((G, S, 8), level, np.float32)
    logits[..., 0] += 5
    ctx = context(bias=np.zeros(8, np.float32))
    for k in (1, 2):
        routing = run(router, logits, ctx, k=k)
        np.testing.assert_allclose(routing.probs.sum(-1), 1, rtol=1e-5)
        np.testing.assert_allclose(routing.probs[..., 0], 0.95495, rtol=1e-4)
        assert np.all(np.isfinite(routing.weight))
        aux = accounted(routing)
        # 8 * (.955 + (K - 1) * .0064) / K.
        desired = 8 * (0.95495 + (k - 1) * 0.00643) / k
        loss = aux.losses['load_balance']
        np.testing.assert_allclose(loss, desired, rtol=1e-3)
        if k > 1:  # renormalised gates sum to one though the scores underflow
            total = routing.weight.sum(1)
            np.testing.assert_allclose(total, 1, rtol=1e-5)


@pytest.mark.parametrize('level', [-60.0, -100.0])
def test_small_scores_have_finite_gradients(level):
    ctx = context(bias=np.zeros(E, np.float32))
    got = gradient(sigmoid, draw(0) + np.float32(level), ctx)
    assert np.all(np.isfinite(got))
    assert np.any(np.abs(got) > 1e-3)


@pytest.mark.parametrize('router', [sigmoid, group_limited])
@pytest.mark.parametrize('k', [1, 2])
def test_trains_the_router(router, k):
    ctx = context(bias=np.zeros(8, np.float32))
    got = gradient(router, draw(0, (G, S, 8)), ctx, k=k)
    assert np.all(np.isfinite(got))
    assert np.all(np.any(np.abs(got) > 1e-3, axis=-1))


def test_ties_go_to_the_lowest_index():
    zeros, bias = np.zeros((G, S, 8), np.float32), np.zeros(8, np.float32)
    routing = run(sigmoid, zeros, context(bias=bias), k=2)
    assert np.all(routing.expert == np.array([0, 1])[:, None])
    routing = run(group_limited, zeros, context(bias=bias), k=4)
    assert np.all(routing.expert == np.arange(4)[:, None])


def test_is_the_same_in_training():
    logits, ctx = draw(0), context(bias=BIAS)
    there = run(sigmoid, logits, ctx._replace(train=True))
    here = run(sigmoid, logits, ctx)
    jax.tree.map(np.testing.assert_array_equal, there, here)


@pytest.mark.parametrize(
    ('groups', 'chosen', 'k'), [(3, 2, 2), (4, 5, 2), (4, 1, 3)]
)
def test_groups_that_cannot_give_k_are_an_error(groups, chosen, k):
    # 8 experts do not divide by 3; 5 groups of 4; 2 experts for K = 3.
    ctx = context(bias=jnp.zeros(8))
    options = {'expert_groups': groups, 'chosen_groups': chosen, 'k': k}
    with pytest.raises(ValueError, match='of 8 experts cannot give k ='):
        group_limited(jnp.zeros((G, S, 8)), ctx, **options)


def test_more_choices_than_experts():
    with pytest.raises(ValueError, match='k = 6 of 5 experts'):
        sigmoid(jnp.zeros((G, S, E)), context(bias=jnp.zeros(E)), k=6)
