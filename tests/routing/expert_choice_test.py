"""Expert choice: known gates, balance, and what it looks at."""

import jax
import numpy as np

from moe.routing import expert_choice
from tests.routing.common import (
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


def test_known_gates():
    # Two slots: expert 0 takes tokens 1 and 0, expert 1 tokens 2 and 1, and
    # expert 2 the same. The rows do not sum to 1; the logarithm of each column
    # is a logit up to a constant of the row, which must not change the order.
    gates = np.array([[0.4, 0.0, 0.2], [0.5, 0.1, 0.4], [0.3, 0.2, 0.6]])
    rest = 1.3 - gates.sum(-1, keepdims=True)  # a fourth expert's
    logits = np.log(np.maximum(np.concatenate([gates, rest], 1), 1e-30))
    # Four experts, three tokens: C = ceil(3 * 2 / 4) = 2.
    routing = run(
        expert_choice, np.float32(logits[None]), context(shape=(1, 3))
    )
    assert routing.token[0, :3].tolist() == [[1, 0], [2, 1], [2, 1]]
    desired = np.array([[0.5, 0.4], [0.2, 0.1], [0.6, 0.4]]) / 1.3
    np.testing.assert_allclose(routing.weight[0, :3], desired, rtol=1e-5)


def test_ties_go_to_the_lowest_token():
    logits = np.zeros((G, S, E), np.float32)
    routing = run(expert_choice, logits, context(PADDED))
    # Live are tokens 1, 2, 3, 5 of group 0, and 0, 1, 2 of group 1.
    assert np.all(routing.token[0] == [1, 2, 3])
    assert np.all(routing.token[1] == [0, 1, 2])


def test_is_balanced_by_construction():
    routing = run(expert_choice, draw(0), context())
    aux = accounted(routing)
    assert aux.stats['load'].tolist() == [1] * E
    np.testing.assert_allclose(aux.losses['load_balance'], 1, rtol=1e-6)
    assert aux.stats['experts_per_token'] == G * E * 3 / (G * S)


def test_trains_the_router():
    got = gradient(expert_choice, draw(0), context(PADDED))
    assert np.all(np.isfinite(got))
    assert np.any(np.abs(got[PADDED]) > 1e-3)
    assert not np.any(got[~PADDED])


def test_looks_ahead_inside_a_group_and_nowhere_else():
    # Another last token in group 0 can take an earlier one's place; group 1
    # is as it was.
    one, two = draw(0), draw(0)
    two[0, -1] = [9, 0, 0, 0, 0]
    a = run(expert_choice, one, context())
    b = run(expert_choice, two, context())
    assert b.token[0, 0, 0] == S - 1
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x[1], y[1])
