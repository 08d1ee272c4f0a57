"""Rules that move the state of routers: selection biases and penalties.

A rule is a `moe.types.State`. E experts, G groups, S tokens a group.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe.config import (
    ConfigError,
    Fraction,
    NaturalFloat,
    PositiveFloat,
    Registry,
)
from moe.types import Routing, State, StateStatistic

# Rules for selection biases [E], which routers add to their scores.
BALANCE_RULES = Registry('balance rule')
# Rules for the coefficient of a router's own L1 loss, a scalar; their attribute
# `active_share` weighs the experts in it, see `moe.types.Routing`.
PENALTY_RULES = Registry('penalty rule')


@BALANCE_RULES.register('sign')
@dataclasses.dataclass(frozen=True)
class SignRule:
    """Moves the bias of each expert against its load, by equal steps.

    `bias + rate * sign(mean(load) - load)`, minus the change's mean.
    Source: arXiv 2408.15664, algorithm 1; centred as there in section 3.

    Attributes:
      rate: size of the step; 0 never moves the bias.
    """

    rate: NaturalFloat = 1e-3

    def init(self, num_experts: int) -> Float[Array, 'E']:
        """Returns the bias before the first step, zeros."""
        return jnp.zeros((num_experts,), jnp.float32)

    def statistic(
        self, routing: Routing, value: Float[Array, 'E']
    ) -> Float[Array, 'E']:
        """Returns the load: assignments of each expert, before capacity."""
        return jnp.sum(routing.assignments(), axis=(0, 1))

    def update(
        self, value: Float[Array, 'E'], statistic: Float[Array, 'E']
    ) -> Float[Array, 'E']:
        """Returns the bias after a step: up where the load is below its mean.

        Args:
          value: the bias, float32.
          statistic: the load, in any unit.
        """
        change = self.rate * jnp.sign(jnp.mean(statistic) - statistic)
        return value + change - jnp.mean(change)


@PENALTY_RULES.register('sparsity')
@dataclasses.dataclass(frozen=True)
class SparsityRule:
    """Holds the share of gates that are zero, by the L1 loss's coefficient.

    `penalty * rate^sign(sparsity - share)`; in the loss the gates of an expert
    are times its load, `share of the tokens / (1 - sparsity)`, so that those of
    busy experts shrink first. Source: ReMoE, arXiv 2412.14711, and its code, in
    which all layers have one coefficient, by their mean share.

    Attributes:
      sparsity: target share of gates that are zero, `1 - K / E` for K experts
        a token in the mean.
      rate: factor by which the coefficient changes in a step.
      load_weighted: whether the loss weighs gates by the load of their experts.
      layers: over which mixture layers the share is taken: all together, for
        one coefficient, or each for one of its own.
    """

    sparsity: Fraction = 0.75
    rate: PositiveFloat = 1.2
    load_weighted: bool = True
    layers: Literal['all', 'each'] = 'all'

    def __post_init__(self):
        if self.sparsity == 1:
            raise ConfigError('sparsity', self.sparsity, 'less than 1')

    def init(self, num_experts: int) -> Float[Array, '']:
        """Returns the coefficient before the first step, 1e-8."""
        return jnp.full((), 1e-8, jnp.float32)

    @property
    def active_share(self) -> float | None:
        """Returns the share of gates that are to be active, if it weighs."""
        return 1 - self.sparsity if self.load_weighted else None

    def statistic(
        self, routing: Routing, value: Float[Array, '']
    ) -> tuple[Float[Array, ''], Float[Array, '']]:
        """Returns how many gates were not zero, and how many there were."""
        gates = routing.penalized_gates
        gates = routing.gates() if gates is None else gates
        active = (gates > 0) & routing.mask[..., None]
        tokens = jnp.sum(routing.mask.astype(jnp.float32))
        return jnp.sum(active.astype(jnp.float32)), tokens * gates.shape[-1]

    def update(
        self,
        value: Float[Array, ''],
        statistic: tuple[Float[Array, ''], Float[Array, '']],
    ) -> Float[Array, '']:
        """Returns the coefficient after a step.

        Args:
          value: the coefficient, float32.
          statistic: number of gates that were not zero, and of all gates.
        """
        active, total = statistic
        share = 1 - active / jnp.maximum(total, 1.0)
        return value * self.rate ** jnp.sign(self.sparsity - share)


def update_router_state(
    state: Mapping[str, Any], statistics: Mapping[str, StateStatistic]
) -> dict[str, Any]:
    """Returns the state of all routers after a step.

    Args:
      state: the variables `router_state` of a model, whose layers may be
        stacked by `scan` or `vmap`.
      statistics: `Aux.state_statistics`, summed over the step's whole batch.

    >>> rule = SignRule(rate=0.5)
    >>> load = StateStatistic(jnp.array([3.0, 1.0]), rule, num_experts=2)
    >>> state = {'layer': {'bias': jnp.zeros(2)}}
    >>> new = update_router_state(state, {'layer/bias': load})
    >>> new['layer']['bias'].tolist()
    [-0.5, 0.5]
    """
    result = dict(state)
    values = {path: _at(state, path) for path in statistics}
    depths = {p: _depth(s, values[p]) for p, s in statistics.items()}
    totals = _over_all_layers(statistics, depths)
    for path, statistic in statistics.items():
        *parents, name = path.split('/')
        node = result
        for parent in parents:
            node[parent] = node = dict(node[parent])
        rule, update = statistic.rule, statistic.rule.update
        for _ in range(depths[path]):
            update = jax.vmap(
                update, in_axes=(0, None if rule in totals else 0)
            )
        node[name] = update(values[path], totals.get(rule, statistic.value))
    return result


def _at(state: Mapping[str, Any], path: str) -> Any:
    for name in path.split('/'):
        state = state[name]
    return state


def _depth(statistic: StateStatistic, value: Any) -> int:
    """Returns the number of leading axes, those of stacked layers."""
    one = jax.eval_shape(lambda: statistic.rule.init(statistic.num_experts))
    extra = jax.tree.map(lambda a, b: a.ndim - b.ndim, value, one)
    return max(jax.tree.leaves(extra), default=0)


def _over_all_layers(
    statistics: Mapping[str, StateStatistic], depths: Mapping[str, int]
) -> dict[State, Any]:
    """Returns the sums of the statistics by rule, for rules of all layers."""
    totals: dict[State, Any] = {}
    for path, statistic in statistics.items():
        rule, axes = statistic.rule, tuple(range(depths[path]))
        if getattr(rule, 'layers', 'each') == 'all':
            parts = [jax.tree.map(lambda v, a=axes: v.sum(a), statistic.value)]
            parts += [totals[rule]] if rule in totals else []
            totals[rule] = jax.tree.map(lambda *v: sum(v), *parts)
    return totals
