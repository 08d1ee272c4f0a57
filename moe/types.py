"""The data that flows: Routing from routers to dispatchers, Aux to the loop.

G groups, S tokens a group, E experts. A group's assignments form a grid
[N, M]: K choices x S tokens for token choice, where a token names an expert
once at most, or E experts x C slots for expert choice, where row e is of
expert e. Row-major order is priority order.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

from jaxtyping import Array, Bool, Float, Int


class Routing(NamedTuple):
    """Who goes where, with what weight: what every router returns.

    Attributes:
      expert: [G, N, M] int32, expert of each assignment; None where every
        token is for every expert, and assignment [g, e, s] for expert e.
      weight: [G, N, M] float32, its combine weight; carries the gradient.
      live: [G, N, M] bool, False for assignments that do not exist (padding).
      probs: [G, S, E] float32, probabilities for the losses, rows sum to 1.
      logits: [G, S, E] float32, without noise, for the z-loss.
      mask: [G, S] bool, the live tokens.
      token: [G, N, M] int32, token of each assignment within its group; None
        for token choice, where assignment [g, k, s] is of token s.
      priority: [G, S] float32; within a choice, tokens of greater priority
        take slots first. None for token order.
      counted: [G, N, M] bool, the assignments that the balance loss counts;
        None for all live ones.
      chance: [G, S, E] float32, the probability that e is among the chosen if
        only its noise were drawn again, for the smooth load loss; None for a
        router without noise.
    """

    expert: Any
    weight: Any
    live: Any
    probs: Any
    logits: Any
    mask: Any
    token: Any = None
    priority: Any = None
    counted: Any = None
    chance: Any = None

    @property
    def num_experts(self) -> int:
        """E."""
        return self.probs.shape[-1]


class Context(NamedTuple):
    """What a router may look at beside its logits.

    Attributes:
      mask: live tokens; padding is False.
      position: position of each token in the global batch, int32: noise is a
        function of it, so that every mesh draws the same.
      key: PRNG key of this layer and step; None where nothing may be random.
      train: whether this is training.
      axis_name: mesh axes the tokens are split over, inside `shard_map`.
      importance: 1, 0.5 or 0 for slots of a group of experts that hold a
        token's first choice, a later one, or nothing; None is 1.
      noise_logits: a second learned projection of the tokens, float32. This
        and what follows are set for the routers whose traits ask for them.
      bias: selection bias of each expert, float32, moved by the train step,
        not by a gradient.
      penalty: coefficient of the L1 loss, float32 scalar, moved like the bias.
      token_id: ids of the tokens, int32.
      recorded: the Routing of an earlier run.
    """

    mask: Bool[Array, 'G S']
    position: Int[Array, 'G S']
    key: Any = None
    train: bool = False
    axis_name: Any = None
    importance: Any = None
    noise_logits: Any = None
    bias: Any = None
    penalty: Any = None
    token_id: Any = None
    recorded: Any = None


Router = Callable[[Float[Array, 'G S E'], Context], Routing]
AnyRouter = TypeVar('AnyRouter', bound=Callable)


@dataclasses.dataclass(frozen=True)
class Traits:
    """What a router reads, and whom it sees.

    Attributes:
      uses: optional fields of the Context that it reads.
      looks_ahead: when a token's experts depend on later tokens.
    """

    uses: frozenset[str] = frozenset()
    looks_ahead: Literal['never', 'in training', 'always'] = 'never'


def traits(
    uses: Iterable[str] = (),
    looks_ahead: Literal['never', 'in training', 'always'] = 'never',
) -> Callable[[AnyRouter], AnyRouter]:
    """Declares the `Traits` of a router; one without has the defaults."""

    def mark(router: AnyRouter) -> AnyRouter:
        declared = Traits(frozenset(uses), looks_ahead)
        router.traits = declared  # type: ignore[attr-defined]
        return router

    return mark


def traits_of(router: Any) -> Traits:
    """The traits of a router, or of a partial of one."""
    while isinstance(router, functools.partial):
        router = router.func
    return getattr(router, 'traits', Traits())


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
      selection_probability: [G, S, E] float32, the probability that the
        expert is among the chosen if only its noise were drawn again; without
        noise 1 where the gate is positive.
      num_sequences: B, in which the tokens stand one after another.
      state: the router's state by name.
    """

    probs: Float[Array, 'G S E']
    logits: Float[Array, 'G S N']
    mask: Bool[Array, 'G S']
    gates: Float[Array, 'G S E']
    assignments: Float[Array, 'G S E']
    balance_assignments: Float[Array, 'G S E']
    selection_probability: Float[Array, 'G S E']
    num_sequences: int
    state: Mapping[str, Any]


AuxiliaryLoss = Callable[[RoutingSummary], Float[Array, '']]


class Aux(NamedTuple):
    """What a mixture layer returns beside its output.

    Attributes:
      losses: name to unweighted float32 scalar, e.g. 'load_balance'.
      stats: name to float32 statistic, scalars and `load` [E].
      routing: the Routing itself if it was asked for, else None.
    """

    losses: dict[str, Any]
    stats: dict[str, Any]
    routing: Any = None
