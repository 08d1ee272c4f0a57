"""Plans: slot order, and the injection both ways."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from moe.dispatch import grouped_plan, padded_plan
from tests import grids
from tests.reference import routing as reference


def route(
    expert, live=None, token=None, priority=None, experts=None, size=None
):
    """A Routing of the given assignments [G, N, M]."""
    expert = np.asarray(expert, np.int32)
    num_groups, _, size_of_rows = expert.shape
    size = size or size_of_rows
    num_experts = experts or np.max(expert) + 1
    shape = (num_groups, size, num_experts)
    return grids.make(
        expert=expert,
        weight=np.ones(expert.shape, np.float32),
        valid=np.ones(expert.shape, bool) if live is None else live,
        probs=np.full(shape, 1 / num_experts, np.float32),
        logits=np.zeros(shape, np.float32),
        mask=np.ones((num_groups, size), bool),
        token=token,
        priority=None if priority is None else np.float32(priority),
    )


@functools.partial(jax.jit, static_argnums=(1, 2))
def plan_of(routing, layout, slots):
    make = {'padded': padded_plan, 'grouped': grouped_plan}[layout]
    return make(routing, slots)


# Gates of three tokens [[.4, 0, .2], [.5, .1, .4], [.3, .2, .6]], K = 2.
FIRST, SECOND = [0, 0, 2], [2, 2, 0]
GREATEST_GATE = [[0.4, 0.5, 0.6]]


@pytest.mark.parametrize(
    ('priority', 'places'),
    [
        # (expert, slot) of both choices of each token, by position,
        (None, [[(0, 0), (2, 1)], [(0, 1), (2, 2)], [(2, 0), (0, 2)]]),
        # and batch-prioritised.
        (GREATEST_GATE, [[(0, 1), (2, 2)], [(0, 0), (2, 1)], [(2, 0), (0, 2)]]),
    ],
)
def test_slot_order(priority, places):
    routing = route([[FIRST, SECOND]], priority=priority)
    # Three slots show every place: one group, so the row is expert * 3 + slot.
    plan = plan_of(routing, 'padded', 3)
    got = [[divmod(r, 3) for r in token] for token in plan.row.T.tolist()]
    assert got == places
    # With two, whoever is in the third is dropped, in either plan.
    kept = [[[slot < 2 for _, slot in token] for token in places]]
    for layout in ('padded', 'grouped'):
        plan = plan_of(routing, layout, 2)
        assert plan.within_capacity.transpose(0, 2, 1).tolist() == kept


def test_equal_priorities_are_in_token_order():
    # Tokens 1 and 3 before 0 and 2, each pair from left to right.
    priority = [[1, 2, 1, 2]]
    routing = route([[[0, 0, 0, 0]]], priority=priority)
    plan = plan_of(routing, 'padded', 4)
    assert plan.row.tolist() == [[2, 0, 3, 1]]


def test_padding_takes_no_slot():
    # Tokens 0 and 2 are padding, though they come first and rank highest.
    live = np.array([[[False, True, False, True]]])
    for priority in (None, [[9, 1, 9, 2]]):
        routing = route([[[0, 0, 0, 0]]], live=live, priority=priority)
        plan = plan_of(routing, 'padded', 2)
        assert plan.within_capacity.tolist() == live.tolist()
        assert plan.sizes.tolist() == [2]


# G, rows, columns, S, E: token choice of K = 2 and of K = 3, expert choice.
SHAPES = {
    'two choices': (2, 2, 6, 6, 5),
    'all experts': (1, 3, 7, 7, 3),
    'expert choice': (2, 4, 3, 6, 4),
}


def draw(kind, seed, with_priority):
    """A random routing, most of it to a few experts, some of it not live."""
    rng = np.random.default_rng(seed)
    num_groups, rows, columns, size, num_experts = SHAPES[kind]
    popularity = rng.normal(size=num_experts) * 2
    noise = rng.gumbel(size=(num_groups, columns, num_experts))
    order = np.argsort(-(popularity + noise), axis=-1)[..., :rows]
    expert = order.transpose(0, 2, 1)
    token = priority = None
    if kind == 'expert choice':
        expert = np.tile(np.arange(rows)[:, None], (num_groups, 1, columns))
        token = rng.integers(0, size, expert.shape, np.int32)
    if with_priority:
        priority = rng.integers(0, 3, (num_groups, columns))
    live = rng.random(expert.shape) < rng.choice([0.0, 0.6, 1.0])
    return route(expert, live, token, priority, num_experts, size)


def rows_by_hand(routing, layout, slots):
    """Row of each kept assignment, as a dictionary, and the row count."""
    expert, live = grids.expert_of(routing), np.asarray(routing.valid)
    place = np.stack(
        [
            reference.slots(
                expert[g],
                live[g],
                None if routing.priority is None else routing.priority[g],
            )
            for g in range(len(expert))
        ]
    )
    kept = (place >= 0) & (place < (slots or expert.size))
    entries = sorted(
        (expert[i], i[0], place[i], i)
        for i in np.ndindex(kept.shape)
        if kept[i]
    )
    if layout == 'grouped':
        return {i: r for r, (*_, i) in enumerate(entries)}, expert.size
    rows = {i: (e * len(expert) + g) * slots + c for e, g, c, i in entries}
    return rows, routing.num_experts * len(expert) * slots


@pytest.mark.parametrize('with_priority', [False, True])
@pytest.mark.parametrize(
    ('layout', 'slots'), [('padded', 2), ('grouped', 2), ('grouped', None)]
)
@pytest.mark.parametrize('kind', SHAPES)
@hypothesis.settings(max_examples=15)
@hypothesis.given(seed=st.integers(0, 2**31))
def test_plan(kind, layout, slots, with_priority, seed):
    with_priority = with_priority and kind != 'expert choice'
    routing = draw(kind, seed, with_priority)
    plan = jax.device_get(plan_of(routing, layout, slots))
    rows, num_rows = rows_by_hand(routing, layout, slots)
    num_groups, num_choices, _, size, num_experts = SHAPES[kind]
    num_tokens, grid = num_groups * size, routing.weight.shape
    # What is in each row, and where each choice of each token went.
    token = np.full(num_rows, num_tokens)
    assignment = np.full(num_rows, routing.weight.size)
    row = np.full((num_choices, num_tokens), num_rows)
    kept = np.zeros(grid, bool)
    sizes = np.zeros(num_experts)
    for (g, n, m), r in rows.items():
        s = grids.token_of(routing)[g, n, m]
        token[r] = g * size + s
        assignment[r] = np.ravel_multi_index((g, n, m), grid)
        kept[g, n, m] = True
        sizes[grids.expert_of(routing)[g, n, m]] += 1
        if routing.columns_are_tokens:
            row[n, g * size + m] = r
    np.testing.assert_array_equal(plan.token, token)
    np.testing.assert_array_equal(plan.assignment, assignment)
    np.testing.assert_array_equal(plan.within_capacity, kept)
    np.testing.assert_array_equal(plan.sizes, sizes)
    if routing.columns_are_tokens:
        np.testing.assert_array_equal(plan.row, row)
    else:
        assert plan.row is None


@pytest.mark.parametrize(
    ('layout', 'slots'), [('padded', 2), ('grouped', 2), ('grouped', None)]
)
@hypothesis.settings(max_examples=20)
@hypothesis.given(seed=st.integers(0, 2**31))
def test_invariants(layout, slots, seed):
    # Whatever the order: each live assignment in one row of its own or none.
    routing = draw('two choices', seed, False)
    plan = jax.device_get(plan_of(routing, layout, slots))
    live, expert = np.asarray(routing.valid), grids.expert_of(routing)
    filled = plan.assignment[plan.assignment < live.size]
    assert (
        len(set(filled.tolist())) == len(filled) == plan.within_capacity.sum()
    )
    assert plan.within_capacity.ravel()[filled].all()
    assert not (plan.within_capacity & ~live).any()
    # Kept + dropped = assigned, expert by expert and group by group.
    for g in range(2):
        for e in range(routing.num_experts):
            mine = live[g] & (expert[g] == e)
            kept, dropped = (
                (plan.within_capacity[g] & mine),
                (mine & ~plan.within_capacity[g]),
            )
            room = slots or live.size
            assert kept.sum() == min(mine.sum(), room)
            assert kept.sum() + dropped.sum() == mine.sum()
    # Nothing drops without a limit: each live token has all its K experts.
    if slots is None:
        np.testing.assert_array_equal(plan.within_capacity, live)
    # Choice k of token t is in row[k, t], and that row is token t's.
    for k, t in np.argwhere(plan.row < len(plan.token)):
        assert plan.token[plan.row[k, t]] == t


def test_grouped_rows_are_sorted_and_lie_close():
    routing = draw('two choices', 3, False)
    plan = jax.device_get(plan_of(routing, 'grouped', 2))
    number = int(plan.within_capacity.sum())
    experts = routing.expert.ravel()[plan.assignment[:number]]
    assert np.all(np.diff(experts) >= 0)
    assert np.all(plan.token[number:] == routing.mask.size)
    assert plan.sizes.sum() == number > 0
