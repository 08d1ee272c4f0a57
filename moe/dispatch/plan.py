"""Plans: the buffer row of each assignment, as integers without gradient.

G groups, S tokens a group, T = G*S tokens in all, E experts, K choices a
token, C capacity of an expert in a group, A assignments in all, R buffer rows.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from moe.ops import stable_sort
from moe.types import Routing, TokenChoice


class Plan(NamedTuple):
    """A partial injection of assignments into buffer rows.

    Attributes:
      token: token in each row, int32; T where the row is empty.
      assignment: assignment in each row, int32; A where the row is empty.
      row: row of each choice of each token, int32, R where it has none; None
        if a token can have any number of rows.
      sizes: rows filled for each expert, int32.
      within_capacity: assignments that got a row, in the grid of the Routing.
    """

    token: Int[Array, 'R']
    assignment: Int[Array, 'R']
    row: Int[Array, 'K T'] | None
    sizes: Int[Array, 'E']
    within_capacity: Bool[Array, 'G N M']


def padded_plan(routing: Routing, capacity: int) -> Plan:
    """Plans padded buffers [E, G, C]: C rows of every expert in every group.

    Args:
      routing: any routing.
      capacity: C; assignments past an expert's first C in a group are
        dropped.

    Returns:
      The plan, R = E*G*C.
    """
    queue = _queue(routing)
    num_rows = routing.num_experts * len(routing.weight) * capacity
    within = queue.valid & (queue.position < capacity)
    row = queue.segment * capacity + queue.position
    row = jnp.where(within, row, num_rows)
    return _plan(routing, queue, within, row, num_rows)


def grouped_plan(routing: Routing, capacity: int | None = None) -> Plan:
    """Plans rows that are sorted by expert, without empty ones between them.

    Args:
      routing: any routing.
      capacity: C, as in `padded_plan`; None drops nothing.

    Returns:
      The plan, R = A, filled rows first.
    """
    queue = _queue(routing)
    num_rows = routing.weight.size
    within = queue.valid
    if capacity is not None:
        within = within & (queue.position < capacity)
    row = jnp.where(within, jnp.cumsum(within) - 1, num_rows)
    return _plan(routing, queue, within, row, num_rows)


def within_capacity(
    routing: Routing, capacity: int | None
) -> Bool[Array, 'G N M']:
    """Returns the assignments that get a row in either plan.

    Args:
      routing: any routing.
      capacity: C, of an expert in a group; None drops nothing.
    """
    if capacity is None:
        return routing.valid
    return grouped_plan(routing, capacity).within_capacity


def only_experts(
    routing: Routing, first: int | Int[Array, ''], count: int
) -> Routing:
    """Returns the assignments to some consecutive experts alone.

    A grid whose rows are experts loses those of the others; in a token-choice
    grid their assignments are not valid.

    Args:
      routing: any routing.
      first: the first of these experts, which becomes expert 0.
      count: how many experts there are from the first on.

    Returns:
      The Routing with E = count.
    """
    part = lambda v, axis: lax.dynamic_slice_in_dim(v, first, count, axis)
    scores = {name: part(getattr(routing, name), -1) for name in _OF_EXPERTS}
    if isinstance(routing, TokenChoice):
        expert = routing.expert - first
        inside = (expert >= 0) & (expert < count)
        return routing.replace(
            **scores,
            expert=jnp.clip(expert, 0, count - 1),
            valid=routing.valid & inside,
        )
    grids = {
        name: part(value, 1)
        for name in _OF_ASSIGNMENTS
        if (value := getattr(routing, name, None)) is not None
    }
    return routing.replace(**scores, **grids)


_OF_EXPERTS = ('probs', 'logits')
_OF_ASSIGNMENTS = ('weight', 'valid', 'token', 'balance_mask')


class _Queue(NamedTuple):
    """Assignments sorted by (expert, group, priority); A entries each."""

    assignment: Int[Array, 'A']  # flat index of the assignment
    segment: Int[Array, 'A']  # expert * G + group
    position: Int[Array, 'A']  # index in the segment
    valid: Bool[Array, 'A']


def _queue(routing: Routing) -> _Queue:
    """Sorts the assignments once; plans follow from their order."""
    num_groups, rows, columns = routing.weight.shape
    total = num_groups * rows * columns
    group = jnp.arange(num_groups, dtype=jnp.int32)[:, None, None]
    last = routing.num_experts * num_groups
    segment = jnp.where(
        routing.valid, routing.assignment_expert() * num_groups + group, last
    ).reshape(total)
    index = jnp.arange(total, dtype=jnp.int32)
    if routing.priority is None:
        segment, order, starts = stable_sort(segment, last + 1)
    else:
        # Within a choice by falling priority; ties in token order.
        by_priority = jnp.argsort(-routing.priority, axis=-1, stable=True)
        rank = jnp.argsort(by_priority, axis=-1)[:, None, :]
        rank = jnp.arange(rows)[:, None] * columns + rank
        rank = jnp.broadcast_to(rank, routing.weight.shape).reshape(total)
        segment, _, order = lax.sort((segment, rank, index), num_keys=2)
        starts = jnp.searchsorted(segment, jnp.arange(last + 1))
    position = index - starts[segment].astype(jnp.int32)
    return _Queue(order, segment, position, segment < last)


def _plan(routing, queue, within, row, num_rows) -> Plan:
    """Makes both directions of the injection from the sorted assignments."""
    num_groups, rows, columns = routing.weight.shape
    num_tokens = routing.mask.size
    total = routing.weight.size
    empty = jnp.full((num_rows,), total, jnp.int32)
    assignment = empty.at[row].set(queue.assignment, mode='drop')
    row_of = (
        jnp.zeros((total,), jnp.int32)
        .at[queue.assignment]
        .set(row.astype(jnp.int32), unique_indices=True)
    )
    row_of = row_of.reshape(num_groups, rows, columns)
    first = jnp.arange(num_groups, dtype=jnp.int32)[:, None, None]
    first = first * routing.mask.shape[1]
    token = (first + routing.assignment_token()).reshape(total)
    row_by_token = None
    if routing.columns_are_tokens:
        row_by_token = row_of.transpose(1, 0, 2).reshape(rows, num_tokens)
    expert = jnp.where(within, queue.segment // num_groups, routing.num_experts)
    edges = jnp.arange(routing.num_experts)
    sizes = jnp.sum(expert[:, None] == edges, axis=0, dtype=jnp.int32)
    return Plan(
        token=jnp.take(token, assignment, mode='fill', fill_value=num_tokens),
        assignment=assignment,
        row=row_by_token,
        sizes=sizes,
        within_capacity=row_of < num_rows,
    )
