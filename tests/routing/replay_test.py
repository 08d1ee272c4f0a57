"""Replay of routings recorded from other routers."""

import jax
import numpy as np
import pytest

from moe.routing import (
    expert_choice,
    replay,
    top_k,
)
from tests.reference.routing import softmax
from tests.routing.common import (
    FULL,
    PADDED,
    E,
    G,
    S,
    context,
    draw,
    gradient,
    run,
)


def record(router, seed=0, mask=FULL, **options):
    return run(router, draw(seed), context(mask), **options)


def test_expert_choice_can_be_replayed():
    recorded = record(expert_choice)
    routing = run(replay, draw(1), context(recorded=recorded))
    for name in ('weight', 'valid', 'token'):
        np.testing.assert_array_equal(
            getattr(routing, name), getattr(recorded, name)
        )


@pytest.mark.parametrize('factor', [2.0, 9.0])  # C = 3, and C = S
def test_fresh_gates_of_expert_choice_are_refused_or_right(factor):
    # Right is the softmax over the experts that took the token.
    recorded = record(expert_choice, capacity_factor=factor)
    ctx = context(recorded=recorded)
    try:
        routing = run(replay, draw(1), ctx, fresh_gates=True)
    except ValueError as error:
        assert 'replay' in str(error)  # noqa: PT017
        return
    taken = recorded.token
    for g, e, c in np.ndindex(*recorded.weight.shape):
        token = taken[g, e, c]
        others = [f for f in range(E) if token in taken[g, f].tolist()]
        gates = softmax(draw(1)[g, token, others])
        desired = gates[others.index(e)]
        np.testing.assert_allclose(routing.weight[g, e, c], desired, rtol=1e-5)


def test_a_token_that_is_padding_now_is_not_live():
    recorded = record(top_k)
    routing = run(replay, draw(1), context(PADDED, recorded=recorded))
    for k in range(2):
        np.testing.assert_array_equal(routing.valid[:, k], PADDED)


def test_fresh_gates_train_the_router_and_recorded_ones_do_not():
    recorded = record(top_k)
    ctx = context(recorded=recorded)
    fresh = gradient(replay, draw(1), ctx, fresh_gates=True)
    assert np.all(np.isfinite(fresh))
    assert np.all(np.any(np.abs(fresh) > 1e-3, axis=-1))
    assert not np.any(gradient(replay, draw(1), ctx))


def test_fresh_gates_train_the_router_with_one_expert_a_token():
    ctx = context(recorded=record(top_k, k=1))
    got = gradient(replay, draw(1), ctx, fresh_gates=True)
    assert np.all(np.any(np.abs(got) > 1e-3, axis=-1))


def test_fresh_gates_are_finite_where_nothing_is_live():
    ctx = context(PADDED, recorded=record(top_k, 0, PADDED))
    routing = run(replay, draw(1), ctx, fresh_gates=True)
    assert np.all(np.isfinite(routing.weight))
    got = gradient(replay, draw(1), ctx, fresh_gates=True)
    assert np.all(np.isfinite(got))


def test_the_recorded_counts_and_priority_stay():
    recorded = record(top_k)
    counted = recorded.valid & (np.arange(2) == 0)[:, None]
    priority = np.float32(np.arange(G * S).reshape(G, S))
    recorded = recorded.replace(balance_mask=counted, priority=priority)
    routing = run(replay, draw(1), context(recorded=recorded))
    np.testing.assert_array_equal(routing.balance_mask, counted)
    np.testing.assert_array_equal(routing.priority, priority)


def test_nothing_recorded_is_an_error():
    with pytest.raises(ValueError, match='called without recorded'):
        replay(jax.numpy.zeros((G, S, E)), context())
