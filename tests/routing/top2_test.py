"""Top-2 gating: known gates, importance, and what needs a key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.routing import top2
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


def test_known_gates_and_balance():
    # First choices 0, 2, 2, 0: f = [.5, 0, .5], p = [.425, .275, .3]:
    # 3 * (.5*.425 + .5*.3) = 1.0875, whatever becomes of the second choices.
    gates = [[0.5, 0.4, 0.1], [0.3, 0.3, 0.4], [0.1, 0.2, 0.7], [0.8, 0.2, 0.0]]
    logits = jnp.log(jnp.maximum(jnp.array([gates]), 1e-30))
    for policy in ('all', 'none'):
        routing = run(top2, logits, context(shape=(1, 4)), eval_policy=policy)
        losses = accounted(routing).losses
        np.testing.assert_allclose(losses['load_balance'], 1.0875, rtol=1e-6)
    # g1 = .5/.9; the third expert's equals the first's: lowest index second.
    np.testing.assert_array_equal(routing.expert[0, 0], [0, 2, 2, 0])
    np.testing.assert_array_equal(routing.expert[0, 1], [1, 0, 1, 1])
    np.testing.assert_allclose(routing.weight[0, 0, 0], 5 / 9, rtol=1e-6)


def test_the_second_choice_is_another_expert():
    # All probabilities but one are 0 in float32.
    logits = np.tile(np.float32([200, 0, 100]), (G, S, 1))
    routing = run(top2, logits, context())
    assert routing.expert[0, :, 0].tolist() == [0, 2]
    assert routing.weight[0, :, 0].tolist() == [1, 0]
    # As the second choice of a group of experts, the best of all.
    half = np.full((G, S), 0.5, np.float32)
    routing = run(top2, logits, context(importance=half))
    assert np.all(routing.expert[:, 1] == 0)
    assert not routing.valid[:, 0].any()


def test_ties_go_to_the_lowest_index():
    routing = run(top2, np.zeros((G, S, E), np.float32), context())
    assert np.all(routing.expert[:, 0] == 0)
    assert np.all(routing.expert[:, 1] == 1)
    np.testing.assert_allclose(routing.weight, 0.5, rtol=1e-6)


def test_evaluation_needs_no_key_and_ignores_it():
    logits = draw(0)
    alone = run(top2, logits, context())
    keyed = run(top2, logits, context(key=KEY))
    jax.tree.map(np.testing.assert_array_equal, alone, keyed)
    assert alone.valid.all()  # every second choice by default


@pytest.mark.parametrize('train', [True, False])
def test_random_without_key_is_an_error(train):
    options = {'policy': 'random', 'eval_policy': 'random'}
    with pytest.raises(ValueError, match="'random' needs an rng named"):
        top2(jnp.zeros((G, S, E)), context(train=train), **options)


def test_one_expert_is_an_error():
    with pytest.raises(ValueError, match='top2: needs 2 experts, not 1'):
        top2(jnp.zeros((G, S, 1)), context())


def test_random_keeps_by_the_ratio_to_the_threshold():
    # 4096 tokens whose second gate is 1/(1 + e) = .26894: with t = .5 a share
    # of .53788 is kept, whose standard deviation is .0078.
    ctx = context(shape=(2, 2048), key=KEY, train=True)
    logits = np.tile(np.float32([1, 0, -90]), (2, 2048, 1))
    routing = run(top2, logits, ctx, threshold=0.5)
    share = routing.valid[:, 1].mean()
    np.testing.assert_allclose(share, 0.53788, atol=4 * 0.0078)
    # At or below the gate itself, everything.
    assert run(top2, logits, ctx, threshold=0.2).valid.all()


def test_importance_of_one_is_none():
    logits, ones = draw(0), np.ones((G, S), np.float32)
    alone = run(top2, logits, context(PADDED))
    whole = run(top2, logits, context(PADDED, importance=ones))
    jax.tree.map(np.testing.assert_array_equal, whole, alone)


def test_known_importance():
    # Of p = [.5, .3, .2]: both choices, the best as the second, and nothing.
    logits = jnp.log(jnp.tile(jnp.array([0.5, 0.3, 0.2]), (1, 3, 1)))
    ctx = context(shape=(1, 3), importance=jnp.array([[1.0, 0.5, 0.0]]))
    routing = run(top2, logits, ctx)
    np.testing.assert_array_equal(
        routing.valid[0], [[True, False, False], [True, True, False]]
    )
    np.testing.assert_array_equal(routing.expert[0, 1, :2], [1, 0])
    gates = np.where(routing.valid[0], routing.weight[0], 0)
    desired = [[0.625, 0, 0], [0.375, 1, 0]]
    np.testing.assert_allclose(gates, desired, rtol=1e-6)
    # Only the first token's choice and probabilities are in the balance.
    assert routing.balance_mask.sum() == 1
    assert not np.any(routing.probs[0, 1:])


@pytest.mark.parametrize('policy', ['all', 'none'])
def test_trains_the_router(policy):
    got = gradient(top2, draw(1), context(), eval_policy=policy)
    assert np.all(np.isfinite(got))
    assert np.all(np.any(np.abs(got) > 1e-3, axis=-1))
