"""From a Routing to the Aux: every loss that applies, every statistic."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from moe import losses, stats
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
    if routing.token is None:
        hit = routing.expert[..., None] == jnp.arange(routing.num_experts)
        return jnp.sum(jnp.where(hit, values[..., None], 0.0), axis=1)
    group = jnp.arange(values.shape[0])[:, None, None]
    zeros = jnp.zeros(routing.probs.shape, jnp.float32)
    return zeros.at[group, routing.token, routing.expert].add(values)


def account(
    routing: Routing,
    kept: Bool[Array, 'G N M'],
    *,
    scope: losses.Scope = 'global',
    num_sequences: int | None = None,
    axis_name: losses.AxisName = None,
    record: bool = False,
) -> Aux:
    """What came of a layer's routing.

    Args:
      routing: who was to go where.
      kept: the assignments that got a slot.
      scope: of the load-balance loss.
      num_sequences: B, for the sequence-wise balance loss; None for groups.
      axis_name: mesh axes the tokens are split over.
      record: whether to keep the Routing.

    Returns:
      The Aux with the losses 'load_balance', 'sequence_balance' (the same
      within each sequence, arXiv 2412.19437), 'router_z', 'importance',
      'load' and 'l1', and the statistics of `stats.routing_stats`.
    """
    ones = jnp.ones(routing.expert.shape, jnp.float32)
    chosen = dense(routing, ones)
    gates = dense(routing, routing.weight)
    counted = chosen
    if routing.counted is not None:
        counted = dense(routing._replace(live=routing.counted), ones)
    shape = (num_sequences or chosen.shape[0], -1, chosen.shape[-1])
    mask = routing.mask
    chance = routing.chance
    if chance is None:
        chance = (gates > 0).astype(jnp.float32)
    return Aux(
        losses={
            'load_balance': losses.load_balance(
                routing.probs,
                jnp.sum(counted, axis=1),
                mask,
                scope=scope,
                axis_name=axis_name,
            ),
            'sequence_balance': losses.load_balance(
                routing.probs.reshape(shape),
                jnp.sum(counted.reshape(shape), axis=1),
                mask.reshape(shape[:2]),
                scope='group',
                axis_name=axis_name,
            ),
            'router_z': losses.router_z(
                routing.logits, mask, axis_name=axis_name
            ),
            'importance': losses.importance(gates, axis_name=axis_name),
            'load': losses.load(chance, mask, axis_name=axis_name),
            'l1': losses.l1(gates, mask, axis_name=axis_name),
        },
        stats=stats.routing_stats(
            routing.probs,
            jnp.sum(chosen, axis=1),
            kept,
            mask,
            axis_name=axis_name,
        ),
        routing=routing if record else None,
    )
