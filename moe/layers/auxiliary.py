"""The auxiliary losses and the statistics of a layer's routing.

B sequences, G groups, S tokens a group, E experts; a Routing's assignments
form a grid [N, M] in each group.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from moe import losses, stats
from moe.losses import AUXILIARY_LOSSES
from moe.parallel import by_device
from moe.types import Aux, AuxiliaryLoss, Routing, RoutingSummary

NO_STATE: Mapping[str, Any] = MappingProxyType({})


@AUXILIARY_LOSSES.register('load_balance')
def load_balance(
    summary: RoutingSummary, *, scope: losses.Scope = 'global'
) -> Float[Array, '']:
    """Load-balance loss, see `moe.losses.load_balance`.

    Args:
      summary: of the layer's routing.
      scope: over what its means are taken.
    """
    counts = jnp.sum(summary.balance_assignments, axis=1)
    return losses.load_balance(summary.probs, counts, summary.mask, scope=scope)


@AUXILIARY_LOSSES.register('sequence_balance')
def sequence_balance(summary: RoutingSummary) -> Float[Array, '']:
    """Load-balance loss within each sequence, the mean over sequences.

    Source: DeepSeek-V3, arXiv 2412.19437, eq. 17-20.

    Args:
      summary: of the layer's routing.
    """
    by_sequence = lambda x: x.reshape(summary.num_sequences, -1, *x.shape[2:])
    return losses.load_balance(
        by_sequence(summary.probs),
        jnp.sum(by_sequence(summary.balance_assignments), axis=1),
        by_sequence(summary.mask),
        scope='group',
    )


@AUXILIARY_LOSSES.register('router_z')
def router_z(summary: RoutingSummary) -> Float[Array, '']:
    """Router z-loss, see `moe.losses.router_z`."""
    return losses.router_z(summary.logits, summary.mask)


@AUXILIARY_LOSSES.register('importance')
def importance(summary: RoutingSummary) -> Float[Array, '']:
    """CV^2 of the experts' summed gates, see `moe.losses.importance`."""
    return losses.importance(summary.gates)


@AUXILIARY_LOSSES.register('load')
def load(summary: RoutingSummary) -> Float[Array, '']:
    """CV^2 of the experts' expected loads, see `moe.losses.load`."""
    return losses.load(summary.selection_probability, summary.mask)


@AUXILIARY_LOSSES.register('l1')
def l1(summary: RoutingSummary) -> Float[Array, '']:
    """Mean sum of a token's gates, times the router's own coefficient.

    The coefficient is the state 'penalty' of a router that has one, such as
    `relu`; else 1. See `moe.losses.l1`.

    Args:
      summary: of the layer's routing.
    """
    value = losses.l1(summary.gates, summary.mask)
    return value * summary.state.get('penalty', 1.0)


# What the Aux of every mixture layer holds.
LOSSES: Mapping[str, AuxiliaryLoss] = MappingProxyType(
    {
        'importance': importance,
        'l1': l1,
        'load': load,
        'load_balance': load_balance,
        'router_z': router_z,
        'sequence_balance': sequence_balance,
    }
)


def dense(
    routing: Routing, values: Float[Array, 'G N M']
) -> Float[Array, 'G S E']:
    """Sums a value of each assignment over (token, expert).

    Args:
      routing: who goes where.
      values: of each assignment, float32; those that are not valid count 0.

    Returns:
      The sums, float32.
    """
    values = jnp.where(routing.live, values, 0.0)
    if routing.expert is None:
        return jnp.moveaxis(values, 1, -1)
    if routing.token is None:
        hit = routing.expert[..., None] == jnp.arange(routing.num_experts)
        return jnp.sum(jnp.where(hit, values[..., None], 0.0), axis=1)
    zeros = jnp.zeros(routing.probs.shape[1:], jnp.float32)
    # By group: a sum over indices of all would be one over all devices.
    add = lambda token, expert, value: zeros.at[token, expert].add(value)
    return jax.vmap(add)(routing.token, routing.expert, values)


def summarize(
    routing: Routing,
    *,
    num_sequences: int | None = None,
    state: Mapping[str, Any] = NO_STATE,
) -> RoutingSummary:
    """Returns what the auxiliary losses are functions of.

    Args:
      routing: who was to go where.
      num_sequences: B; None if each group is a sequence.
      state: of the router, by name.
    """
    ones = jnp.ones(routing.weight.shape, jnp.float32)
    gates, assignments = dense(routing, routing.weight), dense(routing, ones)
    counted, chance = assignments, routing.chance
    if routing.counted is not None:
        counted = dense(routing._replace(live=routing.counted), ones)
    if chance is None:
        chance = (gates > 0).astype(jnp.float32)
    return RoutingSummary(
        probs=routing.probs,
        logits=routing.logits,
        mask=routing.mask,
        gates=gates,
        assignments=assignments,
        balance_assignments=counted,
        selection_probability=chance,
        num_sequences=num_sequences or len(routing.mask),
        state=state,
    )


def auxiliary(
    summary: RoutingSummary,
    within_capacity: Bool[Array, '...'] | Float[Array, ''],
    extra_losses: Mapping[str, AuxiliaryLoss] = NO_STATE,
) -> Aux:
    """Computes the auxiliary losses and the statistics of a layer.

    Args:
      summary: of the layer's routing.
      within_capacity: whether each assignment was within capacity, or how
        many were.
      extra_losses: losses beside those of `LOSSES`, or in the place of those
        of the same name, e.g. a partial with other options.

    Returns:
      The Aux with every loss by name, and `stats.routing_stats`.
    """
    functions = {**LOSSES, **extra_losses}
    return Aux(
        losses={name: loss(summary) for name, loss in functions.items()},
        stats=stats.routing_stats(
            summary.probs,
            jnp.sum(summary.assignments, axis=1),
            within_capacity,
            summary.mask,
        ),
    )


def buffer_stats(
    excess: Float[Array, 'G E'],
    assigned: Int[Array, ''],
    dropped: Float[Array, ''],
) -> dict[str, Array]:
    """Returns statistics of assignments that a receive buffer had no row for.

    Args:
      excess: how many of each group's to each expert.
      assigned: how many valid ones there were in all.
      dropped: the share of them that was dropped for any reason.

    Returns:
      `dropped_buffer`, the share that was dropped for lack of rows in the
      receive buffers of the experts' devices, `dropped_buffer_by_sender` [n]
      and `dropped_buffer_by_receiver` [n], its parts by place on the mesh axis
      of the experts, and `dropped_capacity`, the share beyond capacity.
    """
    excess = excess / jnp.maximum(assigned, 1)
    by_sender, by_receiver = by_device(excess)
    total = jnp.sum(excess)
    return {
        'dropped_capacity': dropped - total,
        'dropped_buffer': total,
        'dropped_buffer_by_sender': by_sender,
        'dropped_buffer_by_receiver': by_receiver,
    }
