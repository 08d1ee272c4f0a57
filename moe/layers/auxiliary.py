"""Auxiliary losses and statistics of a layer's routing.

B sequences, G groups, S tokens a group, E experts; a Routing's assignments
form a grid [N, M] in each group.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from moe import losses, stats
from moe.losses import AUXILIARY_LOSSES
from moe.parallel import by_device
from moe.totals import Derived, Mean, Total, constant, mean_over
from moe.types import (
    Aux,
    AuxiliaryLoss,
    Context,
    Router,
    Routing,
    RoutingSummary,
    StateStatistic,
    Totals,
    states_of,
)

NOTHING: Mapping[str, Any] = MappingProxyType({})


@AUXILIARY_LOSSES.register('load_balance')
def load_balance(
    summary: RoutingSummary, *, scope: losses.Scope = 'global'
) -> Total:
    """Returns the load-balance loss, see `moe.losses.load_balance`.

    It counts the experts that tokens are sent to, by whatever bias.

    Args:
      summary: summary of the layer's routing.
      scope: the tokens over which its means are taken.
    """
    counts = jnp.sum(summary.balance_assignments, axis=1)
    return losses.balance_total(
        summary.probs, counts, summary.mask, scope=scope
    )


@AUXILIARY_LOSSES.register('sequence_balance')
def sequence_balance(summary: RoutingSummary) -> Total:
    """Returns the mean over sequences of their own load-balance losses.

    It counts the K greatest scores of each token, without the selection bias
    and the group limit by which experts are chosen: it is the router itself
    that is to be balanced. Source: DeepSeek-V3, arXiv 2412.19437, eq. 17-20.

    Args:
      summary: summary of the layer's routing.
    """
    by_sequence = lambda x: x.reshape(summary.num_sequences, -1, *x.shape[2:])
    return losses.balance_total(
        by_sequence(summary.probs),
        jnp.sum(by_sequence(summary.unbiased_assignments), axis=1),
        by_sequence(summary.mask),
        scope='group',
    )


@AUXILIARY_LOSSES.register('router_z')
def router_z(summary: RoutingSummary) -> Total:
    """Returns the router z-loss, see `moe.losses.router_z`."""
    return losses.router_z_total(summary.logits, summary.mask)


@AUXILIARY_LOSSES.register('importance')
def importance(summary: RoutingSummary) -> Total:
    """Returns CV^2 of the experts' summed gates; `moe.losses.importance`."""
    return losses.importance_total(summary.gates, summary.mask)


@AUXILIARY_LOSSES.register('load')
def load(summary: RoutingSummary) -> Total:
    """Returns CV^2 of the experts' expected loads; see `moe.losses.load`."""
    return losses.load_total(summary.selection_probability, summary.mask)


@AUXILIARY_LOSSES.register('l1')
def l1(summary: RoutingSummary) -> Total:
    """Returns the mean sum of a token's gates, times the router's own factor.

    The factor is the state 'penalty' of a router that has one, such as `relu`;
    else 1; so is the weight by load. See `moe.losses.l1_total`.

    Args:
      summary: summary of the layer's routing.
    """
    return losses.l1_total(
        summary.penalized_gates,
        summary.mask,
        factor=summary.state.get('penalty', 1.0),
        active_share=getattr(summary.routing, 'active_share', None),
    )


# The losses in the Aux of every mixture layer.
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


def summarize(
    routing: Routing,
    *,
    num_sequences: int | None = None,
    state: Mapping[str, Any] = NOTHING,
) -> RoutingSummary:
    """Returns the summary that the auxiliary losses are functions of.

    Args:
      routing: the layer's routing, before capacity.
      num_sequences: B; None if each group is a sequence.
      state: the values of the router's states by name.
    """
    gates, assignments = routing.gates(), routing.assignments()
    balanced = assignments
    if routing.balance_mask is not None:
        balanced = routing.replace(valid=routing.balance_mask).assignments()
    unless_none = lambda value, other: other if value is None else value
    return RoutingSummary(
        probs=routing.probs,
        logits=routing.logits,
        mask=routing.mask,
        gates=gates,
        assignments=assignments,
        balance_assignments=balanced,
        unbiased_assignments=unless_none(
            routing.unbiased_assignments, balanced
        ),
        penalized_gates=unless_none(routing.penalized_gates, gates),
        selection_probability=unless_none(
            routing.selection_probability, assignments
        ),
        num_sequences=num_sequences or len(routing.mask),
        state=state,
        routing=routing,
    )


def auxiliary(
    summary: RoutingSummary,
    within_capacity: Bool[Array, '...'] | Float[Array, ''],
    *,
    extra_losses: Mapping[str, AuxiliaryLoss] = NOTHING,
    extra_stats: Mapping[str, Total] = NOTHING,
    state_statistics: Mapping[str, StateStatistic] = NOTHING,
    record: bool = False,
) -> Aux:
    """Computes the auxiliary losses and the statistics of a layer.

    Args:
      summary: summary of the layer's routing.
      within_capacity: whether each assignment was within capacity, or how
        many were.
      extra_losses: losses beside those of `LOSSES`, or replacing one of the
        same name, such as a partial with other options.
      extra_stats: statistics beside those of `stats.routing_stats`.
      state_statistics: statistics of the router's states, see `Aux`.
      record: whether to keep the Routing.

    Returns:
      The Aux with every loss by name, `stats.routing_stats`, the scale of the
      router's logits as `logit_rms`, and the values of the router's states as
      the statistics `state/NAME`.
    """
    functions = {**LOSSES, **extra_losses}
    counted = stats.routing_total(
        summary.probs,
        jnp.sum(summary.assignments, axis=1),
        within_capacity,
        summary.mask,
    )
    others = {'logit_rms': logit_scale(summary), **extra_stats}
    leaves = jax.tree_util.tree_leaves_with_path(dict(summary.state))
    for path, value in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator='/')
        others[f'state/{name}'] = constant(value)
    totals = Totals(
        {name: loss_total(f, summary) for name, f in functions.items()},
        Derived((counted, others), counted.count, _joined),
    )
    routing = summary.routing if record else None
    return Aux.of(totals, dict(state_statistics), routing)


def logit_scale(summary: RoutingSummary) -> Derived:
    """Returns the root of the mean square of the logits over valid tokens.

    Args:
      summary: summary of a layer's routing.
    """
    logits = jax.lax.stop_gradient(summary.logits).astype(jnp.float32)
    mean = mean_over(summary.mask, jnp.mean(jnp.square(logits), axis=-1))
    return Derived(mean, mean.count, _root)


def _root(mean: Mean) -> Float[Array, '*L']:
    return jnp.sqrt(mean.term)


def loss_total(loss: AuxiliaryLoss, summary: RoutingSummary) -> Total:
    """Returns a loss as a total; a number is taken as a mean over tokens.

    Args:
      loss: the loss.
      summary: summary of a layer's routing.
    """
    value = loss(summary)
    if isinstance(value, Total):
        return value
    count = losses.count_tokens(summary.mask)
    return Mean(value * count, count)


def _joined(sums) -> dict[str, Any]:
    counted, others = sums
    return counted.term | {name: x.term for name, x in others.items()}


def losses_with_effect(
    router: Router,
    num_experts: int,
    losses: Mapping[str, AuxiliaryLoss] = LOSSES,
) -> frozenset[str]:
    """Returns the losses whose gradient by the router's logits is not zero.

    It is measured in training on random logits. A coefficient on any other
    loss has no effect on the router, such as the load-balance loss for `hash`,
    or `l1` for gates that always sum to 1.

    Args:
      router: an entry of `ROUTERS` with its options.
      num_experts: E.
      losses: the losses to try, by name.

    Returns:
      Names; all of them for `soft`, which cannot be tried alone.
    """
    draw = np.random.default_rng(0)
    shape = (_TRIED_GROUPS, _TRIED_TOKENS, num_experts)
    normal = lambda: jnp.asarray(draw.standard_normal(shape), jnp.float32)
    states = {
        n: rule.init(num_experts) for n, rule in states_of(router).items()
    }
    context = Context(
        mask=jnp.ones(shape[:2], bool),
        position=jnp.arange(shape[0] * shape[1]).reshape(shape[:2]),
        key=jax.random.key(0),
        train=True,
        noise_logits=normal(),
        # Not the initial values: a penalty begins near 0.
        state=jax.tree.map(jnp.ones_like, states),
        token_id=jnp.zeros(shape[:2], jnp.int32),
    )

    def values(logits):
        routing = router(logits, context)
        summary = summarize(routing, state=context.state)
        total = lambda loss: loss_total(loss, summary)
        return {name: total(loss).term for name, loss in losses.items()}

    if not losses:
        return frozenset()
    if not isinstance(
        jax.eval_shape(lambda x: router(x, context), normal()), Routing
    ):
        return frozenset(losses)
    gradients = jax.jit(jax.jacrev(values))(normal())
    # Smaller ones are the rounding errors of a gradient that is 0.
    reached = lambda g: bool(jnp.max(jnp.abs(g)) > _ROUNDING)
    return frozenset(n for n, g in gradients.items() if reached(g))


_TRIED_GROUPS, _TRIED_TOKENS, _ROUNDING = 2, 16, 1e-6


def buffer_stats(
    excess: Float[Array, 'G E'],
    assigned: Float[Array, ''],
    executed: Float[Array, ''],
) -> dict[str, Mean]:
    """Returns statistics of assignments that receive buffers had no row for.

    Args:
      excess: number of such assignments of each group to each expert.
      assigned: number of all valid assignments.
      executed: number of those that were executed.

    Returns:
      `dropped_buffer`, the share that was dropped because the receive buffers
      of the experts' devices were full, `dropped_buffer_by_sender` [n]
      and `dropped_buffer_by_receiver` [n], its parts by place on the mesh axis
      of the experts, and `dropped_capacity`, the share beyond capacity.
    """
    by_sender, by_receiver = by_device(excess)
    total = jnp.sum(excess)
    sums = {
        'dropped_capacity': assigned - executed - total,
        'dropped_buffer': total,
        'dropped_buffer_by_sender': by_sender,
        'dropped_buffer_by_receiver': by_receiver,
    }
    share = lambda x: Mean(x, jnp.full(x.shape, assigned))
    return {name: share(x) for name, x in sums.items()}
