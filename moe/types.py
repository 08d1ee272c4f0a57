"""Types of the library: what routers take and return, what layers return.

G groups, S tokens a group, E experts. A group's assignments form a grid
[N, M]; row-major order is priority order.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from moe.totals import Total
from moe.traits import (
    State,
    StateStatistic,
    Traits,
    states_of,
    traits,
    traits_of,
)

__all__ = [
    'Aux',
    'AuxiliaryLoss',
    'Context',
    'Dense',
    'ExpertChoice',
    'Router',
    'Routing',
    'RoutingSummary',
    'State',
    'StateStatistic',
    'TokenChoice',
    'Totals',
    'Traits',
    'states_of',
    'traits',
    'traits_of',
]

Kind = TypeVar('Kind', bound='Routing')


def _pytree(cls: type[Kind]) -> type[Kind]:
    """Registers a dataclass as a pytree of all its fields."""
    names = tuple(field.name for field in dataclasses.fields(cls))

    def flatten_with_keys(routing):
        keys = map(jax.tree_util.GetAttrKey, names)
        values = (getattr(routing, name) for name in names)
        return list(zip(keys, values, strict=True)), None

    def unflatten(_, children):
        # Not by the constructor: leaves may be of any shape, or no arrays.
        routing = object.__new__(cls)
        for name, value in zip(names, children, strict=True):
            object.__setattr__(routing, name, value)
        return routing

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten)
    return cls


@dataclasses.dataclass(frozen=True, kw_only=True)
class Routing:
    """Who goes where, with what weight: what every router returns.

    One of the kinds `TokenChoice`, `ExpertChoice` and `Dense`; a pytree.

    Attributes:
      weight: [G, N, M] float32, combine weight of each assignment; carries
        the gradient.
      valid: [G, N, M] bool, False for assignments that do not exist.
      probs: [G, S, E] float32, probabilities for the losses; rows sum to 1.
      logits: [G, S, E] float32, without noise, for the z-loss.
      mask: [G, S] bool, True for valid tokens, False for padding.
      priority: [G, S] float32; of the same choice (first, second, ...) tokens
        of greater priority take capacity first. None is token order.
      balance_mask: [G, N, M] bool, the assignments that the balance losses
        count; None is all valid ones.
      selection_probability: [G, S, E] float32, the probability that an expert
        is among the chosen if only its noise were drawn again, for the smooth
        load loss; None for a router without noise.
      unbiased_assignments: [G, S, E] float32, the assignments that the scores
        alone would make, without selection bias and limits on groups, for the
        balance loss of sequences; None is those of `balance_mask`.
      penalized_gates: [G, S, E] float32, what the L1 loss sums, before any
        limit on the number of experts; None is the gates.
      active_share: the share of the gates that is to be active, float32, by
        which the L1 loss weighs an expert's load; None weighs all alike.
    """

    weight: Float[Array, 'G N M']
    valid: Bool[Array, 'G N M']
    probs: Float[Array, 'G S E']
    logits: Float[Array, 'G S E']
    mask: Bool[Array, 'G S']
    priority: Float[Array, 'G S'] | None = None
    balance_mask: Bool[Array, 'G N M'] | None = None
    selection_probability: Float[Array, 'G S E'] | None = None
    unbiased_assignments: Float[Array, 'G S E'] | None = None
    penalized_gates: Float[Array, 'G S E'] | None = None
    active_share: Float[Array, ''] | None = None

    # Whether column s of the grid is of token s.
    columns_are_tokens: ClassVar[bool] = True

    @property
    def num_experts(self) -> int:
        """Returns E, the number of experts."""
        return self.probs.shape[-1]

    def replace(self: Kind, **changes: Any) -> Kind:
        """Returns a copy with fields changed."""
        return dataclasses.replace(self, **changes)

    def assignment_expert(self) -> Int[Array, 'G N M']:
        """Returns the expert of each assignment, int32."""
        rows = jnp.arange(self.weight.shape[1], dtype=jnp.int32)
        return jnp.broadcast_to(rows[:, None], self.weight.shape)

    def assignment_token(self) -> Int[Array, 'G N M']:
        """Returns the token of each assignment within its group, int32."""
        columns = jnp.arange(self.weight.shape[2], dtype=jnp.int32)
        return jnp.broadcast_to(columns, self.weight.shape)

    def is_first_choice(self) -> Bool[Array, 'G N M']:
        """Returns which assignments are a token's first choice.

        Where no token chose, all are.
        """
        return jnp.ones(self.weight.shape, bool)

    def max_per_expert(self) -> int:
        """Returns how many assignments an expert can have in a group."""
        return self.weight.shape[2]

    def sum_by_expert(
        self, values: Float[Array, 'G N M']
    ) -> Float[Array, 'G S E']:
        """Sums a value of each assignment over (token, expert).

        Args:
          values: the value of each assignment, float32; 0 is taken where it is
            not valid.

        Returns:
          The sums, float32.
        """
        raise NotImplementedError

    def gates(self) -> Float[Array, 'G S E']:
        """Returns the dense combine weights, 0 where nothing is assigned."""
        return self.sum_by_expert(self.weight)

    def assignments(self) -> Float[Array, 'G S E']:
        """Returns how often each token is assigned to each expert, float32."""
        return self.sum_by_expert(jnp.ones(self.weight.shape, jnp.float32))


@_pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenChoice(Routing):
    """Each token chose K experts: assignment [g, k, s] is of token s.

    Attributes:
      expert: [G, K, S] int32, the expert of each assignment; a token names an
        expert once at most, its first choice in row 0.
    """

    expert: Int[Array, 'G N M']

    def assignment_expert(self) -> Int[Array, 'G N M']:
        """Returns the expert of each assignment, int32."""
        return self.expert

    def is_first_choice(self) -> Bool[Array, 'G N M']:
        """Returns True for the first row of the grid."""
        first = jnp.arange(self.weight.shape[1]) == 0
        return jnp.broadcast_to(first[:, None], self.weight.shape)

    def max_per_expert(self) -> int:
        """Returns S: a token names an expert once at most."""
        return self.mask.shape[-1]

    def sum_by_expert(
        self, values: Float[Array, 'G N M']
    ) -> Float[Array, 'G S E']:
        """Sums over the K choices of each token, see `Routing`."""
        hit = self.expert[..., None] == jnp.arange(self.num_experts)
        hit = hit & self.valid[..., None]
        return jnp.sum(jnp.where(hit, values[..., None], 0.0), axis=1)


@_pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpertChoice(Routing):
    """Each expert chose C tokens: assignment [g, e, c] is of expert e.

    Attributes:
      token: [G, E, C] int32, the token of each assignment in its group.
    """

    token: Int[Array, 'G N M']

    columns_are_tokens: ClassVar[bool] = False

    def assignment_token(self) -> Int[Array, 'G N M']:
        """Returns the token of each assignment within its group, int32."""
        return self.token

    def sum_by_expert(
        self, values: Float[Array, 'G N M']
    ) -> Float[Array, 'G S E']:
        """Adds the values up where their tokens are, see `Routing`."""
        values = jnp.where(self.valid, values, 0.0)
        zeros = jnp.zeros(self.probs.shape[1:], jnp.float32)
        # By group: a sum over indices of all would be one over all devices.
        add = lambda token, expert, value: zeros.at[token, expert].add(value)
        return jax.vmap(add)(self.token, self.assignment_expert(), values)


@_pytree
@dataclasses.dataclass(frozen=True, kw_only=True)
class Dense(Routing):
    """Every token goes to every expert: assignment [g, e, s], N = E, M = S."""

    def sum_by_expert(
        self, values: Float[Array, 'G N M']
    ) -> Float[Array, 'G S E']:
        """Moves the experts last, see `Routing`."""
        return jnp.moveaxis(jnp.where(self.valid, values, 0.0), 1, -1)


class Context(NamedTuple):
    """What a router may look at beside its logits.

    Attributes:
      mask: True for valid tokens, False for padding.
      position: position of each token in the global batch, int32: noise is a
        function of it, so that every mesh draws the same.
      key: PRNG key of this layer and step; None where nothing may be random.
      train: whether this is training.
      axis_name: mesh axes that the tokens are split over, for a router that is
        called inside `shard_map` or `pmap`.
      importance: 1, 0.5 or 0 for rows of a group of experts that hold a
        token's first choice, a later one, or nothing; None is 1.
      noise_logits: a second learned projection of the tokens, float32. This
        and what follows are set for the routers whose traits ask for them.
      state: by name, the values of the router's states (`Traits.state`).
      token_id: ids of the tokens, int32.
      routes: [G, S, K] int32, the experts to replay, -1 for none; None for
        those that the router chooses. See `moe.routing.replay`.
    """

    mask: Bool[Array, 'G S']
    position: Int[Array, 'G S']
    key: Any = None
    train: bool = False
    axis_name: Any = None
    importance: Any = None
    noise_logits: Any = None
    state: Mapping[str, Any] = {}
    token_id: Any = None
    routes: Any = None


Router = Callable[[Float[Array, 'G S E'], Context], Routing]


class RoutingSummary(NamedTuple):
    """What an auxiliary loss is a function of: the routing of one layer.

    Attributes:
      probs: [G, S, E] float32, router probabilities; rows sum to 1.
      logits: [G, S, N] float32, router logits without noise; N is E, and the
        number of slots for a soft mixture.
      mask: [G, S] bool, the valid tokens.
      gates: [G, S, E] float32, combine weights; 0 where not chosen or not
        valid.
      assignments: [G, S, E] float32, how often, or how much, a token was
        assigned to an expert, before capacity.
      balance_assignments: [G, S, E] float32, those that the balance losses
        count.
      unbiased_assignments: [G, S, E] float32, those that the balance loss of
        sequences counts: of the scores alone, without selection bias.
      penalized_gates: [G, S, E] float32, what the L1 loss sums.
      selection_probability: [G, S, E] float32, the probability that the
        expert is among the chosen if only its noise were drawn again; without
        noise 1 where it is chosen.
      num_sequences: B, in which the tokens stand one after another.
      state: the values of the router's states by name.
      routing: the whole Routing; None for a soft mixture.
    """

    probs: Float[Array, 'G S E']
    logits: Float[Array, 'G S N']
    mask: Bool[Array, 'G S']
    gates: Float[Array, 'G S E']
    assignments: Float[Array, 'G S E']
    balance_assignments: Float[Array, 'G S E']
    unbiased_assignments: Float[Array, 'G S E']
    penalized_gates: Float[Array, 'G S E']
    selection_probability: Float[Array, 'G S E']
    num_sequences: int
    state: Mapping[str, Any]
    routing: Routing | None = None


# A number, or a total whose term it is, which adds up over microbatches.
AuxiliaryLoss = Callable[[RoutingSummary], Float[Array, ''] | Total]


class Aux(NamedTuple):
    """What a mixture layer returns beside its output.

    Attributes:
      losses: name to unweighted float32 scalar, e.g. 'load_balance'.
      stats: name to float32 statistic, scalars and `load` [E]; 'state/NAME'
        is the value of a router's state.
      routing: the Routing itself if it was asked for, else None.
      state_statistics: in training, what moves the states of the routers, by
        the path of the state among the variables `router_state`.
      totals: of what sums the losses and statistics are functions, so that
        they add up over microbatches; None if they are to be averaged.
    """

    losses: dict[str, Any]
    stats: dict[str, Any]
    routing: Any = None
    state_statistics: dict[str, StateStatistic] = {}
    totals: 'Totals | None' = None

    @classmethod
    def of(
        cls,
        totals: 'Totals',
        state_statistics: dict[str, StateStatistic],
        routing: Any = None,
    ) -> 'Aux':
        """Returns the Aux whose losses and statistics are those of totals.

        Args:
          totals: the totals.
          state_statistics: see the attribute.
          routing: see the attribute.
        """
        losses = {name: total.term for name, total in totals.losses.items()}
        stats = totals.stats.term
        return cls(losses, stats, routing, state_statistics, totals)


class Totals(NamedTuple):
    """What the losses and the statistics of an `Aux` are functions of.

    Attributes:
      losses: by name, totals whose term is the loss.
      stats: a total whose term are all the statistics by name.
    """

    losses: dict[str, Total]
    stats: Total
