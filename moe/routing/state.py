"""Rules that move the state of routers: selection biases and penalties.

A rule is a `moe.types.State`. E experts, G groups, S tokens a group.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe.config import Fraction, NaturalFloat, PositiveFloat, Registry
from moe.types import Routing, StateStatistic

# Rules for selection biases [E], which routers add to their scores.
BALANCE_RULES = Registry('balance rule')
# Rules for the coefficient of a router's own L1 loss, a scalar.
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

    `penalty * rate^sign(sparsity - share)`. Source: ReMoE, arXiv 2412.14711,
    eq. 8.

    Attributes:
      sparsity: target share of gates that are zero, `1 - K / E` for a target K.
      rate: factor by which the coefficient changes in a step.
    """

    sparsity: Fraction = 0.75
    rate: PositiveFloat = 1.2

    def init(self, num_experts: int) -> Float[Array, '']:
        """Returns the coefficient before the first step, 1e-8."""
        return jnp.full((), 1e-8, jnp.float32)

    def statistic(
        self, routing: Routing, value: Float[Array, '']
    ) -> tuple[Float[Array, ''], Float[Array, '']]:
        """Returns how many gates were not zero, and how many there were."""
        tokens = jnp.sum(routing.mask.astype(jnp.float32))
        active = jnp.sum(routing.valid.astype(jnp.float32))
        return active, tokens * routing.num_experts

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
    for path, statistic in statistics.items():
        *parents, name = path.split('/')
        node = result
        for parent in parents:
            node[parent] = node = dict(node[parent])
        node[name] = _over_layers(statistic, node[name])(
            node[name], statistic.value
        )
    return result


def _over_layers(statistic: StateStatistic, value: Any) -> Callable:
    """Maps the update of a rule over the leading axes of stacked layers."""
    update = statistic.rule.update
    one = jax.eval_shape(lambda: statistic.rule.init(statistic.num_experts))
    extra = jax.tree.map(lambda a, b: a.ndim - b.ndim, value, one)
    for _ in range(max(jax.tree.leaves(extra), default=0)):
        update = jax.vmap(update)
    return update
