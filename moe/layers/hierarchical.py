"""The hierarchical mixture: groups of experts, each with its own router.

B leading rows, S tokens a row, G groups of tokens, M groups of experts, E
experts in each, C capacity of a group of experts, D width.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int

from moe.config import ConfigError, options
from moe.dispatch import Plan, padded_plan, row_weight
from moe.layers.auxiliary import auxiliary, load_balance, summarize
from moe.layers.gate import Gate, in_groups
from moe.layers.moe import MoE
from moe.ops import combine_rows, dispatch_rows
from moe.stats import load_stats
from moe.totals import Derived
from moe.types import (
    Aux,
    Context,
    Router,
    Routing,
    Totals,
)


class HierarchicalMoE(nn.Module):
    """An outer router sends tokens to M mixtures, each with E experts.

    The rows that a group of experts receives are the tokens of its own mixture.
    A row has importance 1 if it holds a token's first choice, 0.5 if a later
    one, 0 if it is empty; `top2` reads the importance, other inner routers see
    empty rows as padding. The outer weight multiplies the inner outputs.
    Sources: two-level top-2 gating as in the first public code of GShard,
    arXiv 2006.16668; hierarchical mixtures, arXiv 1701.06538, appendix B.

    Attributes:
      inner: the mixture, of which every group of experts has its own copy. Its
        capacity, jitter, losses and priority also hold for the outer level.
      outer_experts: M, number of groups of experts.
      outer_router: the router between the groups.
      num_groups: G, in which tokens compete for capacity; None makes every
        leading row a group.
    """

    inner: MoE
    outer_experts: int
    outer_router: Router | str
    num_groups: int | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, '*B S D'],
        *,
        mask: Bool[Array, '*B S'] | None = None,
        token_ids: Int[Array, '*B S'] | None = None,
        routes: Any = None,
        train: bool = False,
        record: bool = False,
    ) -> tuple[Float[Array, '*B S F'], Aux]:
        """Routes twice, runs the experts, combines inner, then outer.

        Args:
          x: tokens, float.
          mask: True for valid tokens.
          token_ids: ids of the tokens, int32.
          routes: None; two levels cannot be replayed.
          train: whether this is training.
          record: whether to return the Routings, as a pair (outer, inner).

        Returns:
          The outputs, and the Aux: each loss is the outer one plus the mean of
          the inner ones (a balance loss is 2 at perfect balance), the load is
          of all M*E experts, `outer_load` [M] of the groups of experts;
          statistics that the levels do not share are `outer_NAME` and
          `inner_NAME` [M, ...].

        Raises:
          ConfigError: for routes.
          ValueError: if the tokens do not divide into the groups.
        """
        inner = self.inner
        tokens, valid = in_groups(x, mask, self.num_groups)
        grid = valid.shape
        position = jnp.arange(valid.size, dtype=jnp.int32)
        ids = None if token_ids is None else token_ids.reshape(-1)
        if routes is not None:
            allowed = 'None for mixtures of two levels, which are not replayed'
            raise ConfigError('routes', jnp.shape(routes), allowed)
        context = Context(
            mask=valid,
            position=position.reshape(grid),
            key=self.make_rng('router') if self.has_rng('router') else None,
            train=train,
            token_id=None if ids is None else ids.reshape(grid),
        )
        gate = Gate(
            self.outer_experts,
            self.outer_router,
            inner.jitter,
            inner.batch_prioritized,
            inner.router_init,
            inner.router_bias,
            name='outer',
        )
        routing, state = gate(tokens, context)
        capacity = inner.capacity_of(routing, train)
        capacity = capacity or routing.weight.shape[-1]
        plan = padded_plan(routing, capacity)
        by_row = lambda v: rearrange(
            v, '(m g c) ... -> m g c ...', m=self.outer_experts, c=capacity
        )
        take = lambda v: jnp.take(v, plan.token, mode='fill', fill_value=0)
        flat = tokens.reshape(valid.size, -1)
        rows = dispatch_rows(flat, plan.token, plan.row)
        out, aux = nn.vmap(
            lambda module, x, given: module(
                x, train=train, record=record, **given
            ),
            variable_axes={'params': 0, 'router_state': 0},
            split_rngs={'params': True, 'router': True},
            axis_size=self.outer_experts,
        )(
            inner,
            by_row(rows),
            {
                'mask': by_row(plan.token < valid.size),
                'position': by_row(take(position)),
                'token_ids': None if ids is None else by_row(take(ids)),
                'importance': by_row(_importance(routing, plan)),
            },
        )
        y = combine_rows(
            rearrange(out, 'm g c f -> (m g c) f'),
            row_weight(routing, plan),
            plan.token,
            plan.row,
            valid.size,
        )
        summary = summarize(
            routing,
            num_sequences=valid.size // x.shape[-2],
            state=state.values,
        )
        outer = auxiliary(
            summary,
            plan.within_capacity,
            extra_losses=inner.losses,
            state_statistics=state.statistics,
            record=record,
        )
        balance = inner.losses.get('load_balance', load_balance)
        padded = options(balance).get('scope') == 'padded'
        both = _both(outer, aux, plan.sizes, padded)
        return y.astype(x.dtype).reshape(*x.shape[:-1], -1), both


def _importance(routing: Routing, plan: Plan) -> Float[Array, 'R']:
    """Returns 1 for first choices, 0.5 for later ones, 0 for empty rows."""
    importance = jnp.where(routing.is_first_choice(), 1.0, 0.5).reshape(-1)
    return jnp.take(importance, plan.assignment, mode='fill', fill_value=0)


def _both(outer: Aux, inner: Aux, sizes: Int[Array, 'M'], padded: bool) -> Aux:
    """Combines the Aux of the outer level and the stacked inner ones."""
    assert outer.totals is not None  # it is of `auxiliary`
    assert inner.totals is not None
    filled = sizes.astype(jnp.float32)
    join = lambda one, two, how: Derived((one, two, filled), one.count, how)
    totals = Totals(
        {
            name: join(one, inner.totals.losses[name], _LevelsLoss(padded))
            for name, one in outer.totals.losses.items()
        },
        join(outer.totals.stats, inner.totals.stats, _levels_stats),
    )
    return Aux.of(
        totals,
        outer.state_statistics | inner.state_statistics,
        (outer.routing, inner.routing) if outer.routing is not None else None,
    )


@dataclasses.dataclass(frozen=True)
class _LevelsLoss:
    """The outer loss plus the mean of those of the inner mixtures."""

    padded: bool

    def __call__(self, sums) -> Float[Array, '*L']:
        outer, inner, filled = sums
        # A mixture without tokens has no balance loss.
        counts = jnp.ones_like(filled) if self.padded else filled > 0
        number = jnp.sum(counts, axis=-1, keepdims=True)
        share = counts / jnp.maximum(number, 1)
        return outer.term + jnp.sum(share * inner.term, axis=-1)


def _levels_stats(sums) -> dict[str, Array]:
    """Combines the statistics of the levels.

    One without a common value is reported as `outer_NAME`, and as `inner_NAME`
    for each inner mixture.
    """
    outer, inner, filled = (sums[0].term, sums[1].term, sums[2])
    # Assignments to each inner expert; `load` is relative within a mixture.
    assigned = inner['experts_per_token'] * filled
    load = inner['load'] / inner['load'].shape[-1] * assigned[..., None]
    load = load.reshape(*load.shape[:-2], -1)

    def mean(name, weight):
        whole = jnp.sum(weight, axis=-1)
        total = jnp.sum(weight * inner[name], axis=-1)
        return total / jnp.maximum(whole, 1e-9)

    executed = (1 - outer['dropped']) * (1 - mean('dropped', assigned))
    tokens = outer['experts_per_token']
    combined = load_stats(load) | {
        'entropy': outer['entropy'] + mean('entropy', filled),
        'confidence': outer['confidence'] * mean('confidence', filled),
        'dropped': 1 - executed,
        'experts_per_token': tokens * mean('experts_per_token', filled),
    }
    apart = {
        f'{level}_{name}': value
        for level, stats in (('outer', outer), ('inner', inner))
        for name, value in stats.items()
        if name not in combined or name in _APART[level]
    }
    return combined | apart


# Combined statistics that are reported by level too.
_APART = {
    'outer': ('load', 'experts_per_token'),
    'inner': ('experts_per_token',),
}
