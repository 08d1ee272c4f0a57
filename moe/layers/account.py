"""From a Routing to the Aux: every loss that applies, every statistic."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from moe import losses, stats
from moe.parallel import by_device
from moe.types import Aux, Routing

# What every mixture layer's Aux holds.
LOSSES = (
    'importance',
    'l1',
    'load',
    'load_balance',
    'router_z',
    'sequence_balance',
)


def dense(
    routing: Routing, values: Float[Array, 'G N M']
) -> Float[Array, 'G S E']:
    """Spreads a value of each assignment over (token, expert), adding up.

    Args:
      routing: who goes where.
      values: of each assignment, float32; those that are not live count 0.

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


def account(
    routing: Routing,
    kept: Bool[Array, 'G N M'],
    *,
    scope: losses.Scope = 'global',
    num_sequences: int | None = None,
    axis_name: losses.AxisName = None,
    penalty: Float[Array, ''] | None = None,
    record: bool = False,
) -> Aux:
    """What came of a layer's routing.

    Args:
      routing: who was to go where.
      kept: the assignments that got a slot.
      scope: of the load-balance loss.
      num_sequences: B, for the sequence-wise balance loss; None for groups.
      axis_name: mesh axes the tokens are split over.
      penalty: the router's own coefficient of its L1 loss; None is 1.
      record: whether to keep the Routing.

    Returns:
      The Aux with the losses and statistics of `account_gates`.
    """
    ones = jnp.ones(routing.weight.shape, jnp.float32)
    counted = None
    if routing.counted is not None:
        counted = dense(routing._replace(live=routing.counted), ones)
    aux = account_gates(
        routing.probs,
        routing.logits,
        dense(routing, routing.weight),
        dense(routing, ones),
        kept,
        routing.mask,
        counted=counted,
        chance=routing.chance,
        scope=scope,
        num_sequences=num_sequences,
        axis_name=axis_name,
    )
    if penalty is not None:
        aux.losses['l1'] *= penalty
    return aux._replace(routing=routing if record else None)


def room_stats(
    excess: Float[Array, 'G E'],
    assigned: Int[Array, ''],
    dropped: Float[Array, ''],
) -> dict[str, Array]:
    """Statistics of the assignments that had a slot and found no room.

    Args:
      excess: how many of each group's to each expert.
      assigned: how many live ones there were in all.
      dropped: the share of them that was dropped for any reason.

    Returns:
      `dropped_room`, the share that was dropped for lack of room on the
      experts' devices, `dropped_room_by_sender` [n] and
      `dropped_room_by_receiver` [n], its parts by place on the mesh axis of
      the experts, and `dropped_slot`, the share that had no slot.
    """
    excess = excess / jnp.maximum(assigned, 1)
    by_sender, by_receiver = by_device(excess)
    total = jnp.sum(excess)
    return {
        'dropped_slot': dropped - total,
        'dropped_room': total,
        'dropped_room_by_sender': by_sender,
        'dropped_room_by_receiver': by_receiver,
    }


def account_gates(
    probs: Float[Array, 'G S E'],
    logits: Float[Array, 'G S N'],
    gates: Float[Array, 'G S E'],
    chosen: Float[Array, 'G S E'],
    kept: Bool[Array, '...'] | Float[Array, ''],
    mask: Bool[Array, 'G S'],
    *,
    counted: Float[Array, 'G S E'] | None = None,
    chance: Float[Array, 'G S E'] | None = None,
    scope: losses.Scope = 'global',
    num_sequences: int | None = None,
    axis_name: losses.AxisName = None,
) -> Aux:
    """The same from dense gates.

    Args:
      probs: router probabilities, float32.
      logits: for the z-loss, float32.
      gates: combine weights, 0 where not chosen or not live, float32.
      chosen: how often, or how much, a token was assigned to an expert.
      kept: whether each assignment got a slot, or how many did.
      mask: True for live tokens.
      counted: what the balance loss counts; None for `chosen`.
      chance: for the load loss; None for 1 where the gate is positive.
      scope: as in `account`.
      num_sequences: as in `account`.
      axis_name: as in `account`.

    Returns:
      The Aux with the losses 'load_balance', 'sequence_balance' (the same
      within each sequence, arXiv 2412.19437), 'router_z', 'importance',
      'load' and 'l1', and the statistics of `stats.routing_stats`.
    """
    counted = chosen if counted is None else counted
    if chance is None:
        chance = (gates > 0).astype(jnp.float32)
    by_sequence = lambda x: x.reshape(num_sequences or len(x), -1, *x.shape[2:])
    balance = losses.load_balance(
        probs,
        jnp.sum(counted, axis=1),
        mask,
        scope=scope,
        axis_name=axis_name,
    )
    sequence_balance = losses.load_balance(
        by_sequence(probs),
        jnp.sum(by_sequence(counted), axis=1),
        by_sequence(mask),
        scope='group',
        axis_name=axis_name,
    )
    return Aux(
        losses={
            'load_balance': balance,
            'sequence_balance': sequence_balance,
            'router_z': losses.router_z(logits, mask, axis_name=axis_name),
            'importance': losses.importance(gates, axis_name=axis_name),
            'load': losses.load(chance, mask, axis_name=axis_name),
            'l1': losses.l1(gates, mask, axis_name=axis_name),
        },
        stats=stats.routing_stats(
            probs,
            jnp.sum(chosen, axis=1),
            kept,
            mask,
            axis_name=axis_name,
        ),
    )
