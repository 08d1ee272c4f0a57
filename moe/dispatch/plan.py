"""Plans: where each assignment sits, as integers without gradient.

G groups, S tokens a group, T = G*S tokens in all, E experts, K choices a
token, C slots an expert and group, A assignments in all, R buffer rows.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from moe.types import Routing


class Plan(NamedTuple):
    """A partial injection of assignments into buffer rows.

    Attributes:
      token: token in each row, int32; T where the row is empty.
      assignment: assignment in each row, int32; A where the row is empty.
      row: row of each choice of each token, int32, R where it has none; None
        if a token can have any number of rows.
      sizes: rows filled for each expert, int32.
      kept: assignments that got a row, in the grid of the Routing.
    """

    token: Int[Array, 'R']
    assignment: Int[Array, 'R']
    row: Int[Array, 'K T'] | None
    sizes: Int[Array, 'E']
    kept: Bool[Array, 'G N M']


def padded_plan(routing: Routing, slots: int) -> Plan:
    """Rows [E, G, C]: every expert has the same slots in every group.

    Args:
      routing: any routing.
      slots: C; assignments past an expert's first C in a group are dropped.

    Returns:
      The plan, R = E*G*C.
    """
    queue = _queue(routing)
    num_rows = routing.num_experts * routing.expert.shape[0] * slots
    kept = queue.live & (queue.position < slots)
    row = jnp.where(kept, queue.segment * slots + queue.position, num_rows)
    return _plan(routing, queue, kept, row, num_rows)


def grouped_plan(routing: Routing, slots: int | None = None) -> Plan:
    """Rows sorted by expert, one after another, none empty between them.

    Args:
      routing: any routing.
      slots: C, as in `padded_plan`; None drops nothing.

    Returns:
      The plan, R = A, filled rows first.
    """
    queue = _queue(routing)
    num_rows = routing.expert.size
    kept = queue.live
    if slots is not None:
        kept = kept & (queue.position < slots)
    row = jnp.where(kept, jnp.cumsum(kept) - 1, num_rows)
    return _plan(routing, queue, kept, row, num_rows)


def kept(routing: Routing, slots: int | None) -> Bool[Array, 'G N M']:
    """The assignments that get a row in either plan."""
    if slots is None:
        return routing.live
    return grouped_plan(routing, slots).kept


def only_experts(
    routing: Routing, first: int | Int[Array, ''], count: int
) -> Routing:
    """The assignments to a few experts, as if there were no others.

    An expert-choice grid loses the others' rows; in a token-choice grid their
    assignments are not live.

    Args:
      routing: any routing.
      first: the first of the experts, which becomes expert 0.
      count: of the experts, one after another.

    Returns:
      The Routing with E = count.
    """
    part = lambda v, axis: lax.dynamic_slice_in_dim(v, first, count, axis)
    routing = routing._replace(
        probs=part(routing.probs, -1), logits=part(routing.logits, -1)
    )
    if routing.token is not None:
        routing = routing._replace(
            expert=part(routing.expert, 1),
            weight=part(routing.weight, 1),
            live=part(routing.live, 1),
            token=part(routing.token, 1),
        )
    expert = routing.expert - first
    inside = (expert >= 0) & (expert < count)
    return routing._replace(
        expert=jnp.clip(expert, 0, count - 1), live=routing.live & inside
    )


class _Queue(NamedTuple):
    """Assignments sorted by (expert, group, priority); A entries each."""

    assignment: Int[Array, 'A']  # flat index of the assignment
    segment: Int[Array, 'A']  # expert * G + group
    position: Int[Array, 'A']  # place in the segment
    live: Bool[Array, 'A']


def _queue(routing: Routing) -> _Queue:
    """Sorts once; everything a plan needs follows from the order."""
    num_groups, rows, columns = routing.expert.shape
    total = num_groups * rows * columns
    group = jnp.arange(num_groups, dtype=jnp.int32)[:, None, None]
    last = routing.num_experts * num_groups
    segment = jnp.where(
        routing.live, routing.expert * num_groups + group, last
    ).reshape(total)
    index = jnp.arange(total, dtype=jnp.int32)
    if routing.priority is None:
        segment, order = lax.sort((segment, index), num_keys=1, is_stable=True)
    else:
        # Within a choice by falling priority; ties in token order.
        by_priority = jnp.argsort(-routing.priority, axis=-1, stable=True)
        rank = jnp.argsort(by_priority, axis=-1)[:, None, :]
        rank = jnp.arange(rows)[:, None] * columns + rank
        rank = jnp.broadcast_to(rank, routing.expert.shape).reshape(total)
        segment, _, order = lax.sort((segment, rank, index), num_keys=2)
    starts = jnp.searchsorted(segment, jnp.arange(last + 1))
    position = index - starts[segment].astype(jnp.int32)
    return _Queue(order, segment, position, segment < last)


def _plan(routing, queue, kept, row, num_rows) -> Plan:
    """Both directions of the injection, from the sorted rows."""
    num_groups, rows, columns = routing.expert.shape
    num_tokens = routing.mask.size
    total = routing.expert.size
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
    if routing.token is None:
        token = first + jnp.arange(columns, dtype=jnp.int32)
        row_by_token = row_of.transpose(1, 0, 2).reshape(rows, num_tokens)
    else:
        token = first + routing.token
        row_by_token = None
    token = jnp.broadcast_to(token, routing.expert.shape).reshape(total)
    expert = jnp.where(kept, queue.segment // num_groups, routing.num_experts)
    edges = jnp.arange(routing.num_experts)
    sizes = jnp.sum(expert[:, None] == edges, axis=0, dtype=jnp.int32)
    return Plan(
        token=jnp.take(token, assignment, mode='fill', fill_value=num_tokens),
        assignment=assignment,
        row=row_by_token,
        sizes=sizes,
        kept=row_of < num_rows,
    )
