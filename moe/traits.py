"""Traits of routers: the inputs they read, and the state they have.

E experts.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import jax

from moe.config import options
from moe.config.registry import entry_of

AnyRouter = TypeVar('AnyRouter', bound=Callable)


@runtime_checkable
class State(Protocol):
    """State of a router that no gradient moves, such as a selection bias.

    The layer keeps its value among the variables `router_state`; the router
    reads it as `context.state[name]`. In training the layer returns the
    statistic, the train step sums it over the microbatches, and after the
    optimizer `moe.routing.update_router_state` moves the value. A frozen
    dataclass of plain options serves; it is hashed and compared. If it has an
    attribute `layers` that is 'all', the states of all layers with this rule
    move by the sum of their statistics, and not each by its own.
    """

    def init(self, num_experts: int) -> Any:
        """Returns the value before the first step, a pytree of arrays.

        Args:
          num_experts: E, of the router.
        """
        ...

    def statistic(self, routing: Any, value: Any) -> Any:
        """Returns what the update needs to know of a batch.

        Args:
          routing: the `moe.types.Routing` of the batch; padding is not
            valid and must not count.
          value: value of the state, with which the router chose.

        Returns:
          A pytree of sums over tokens, so that the sum of the statistics of
          the parts of a batch is that of the whole.
        """
        ...

    def update(self, value: Any, statistic: Any) -> Any:
        """Returns the value after a step.

        Args:
          value: the value before the step.
          statistic: summed over the whole batch of the step.
        """
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StateStatistic:
    """The statistic of one state of one router, which knows its rule.

    Attributes:
      value: a pytree of sums over tokens, with an axis in front for each
        `scan` or `vmap` over layers.
      rule: the State.
      num_experts: E, of the router.
    """

    value: Any
    rule: State = dataclasses.field(metadata={'static': True})
    num_experts: int = dataclasses.field(metadata={'static': True})


StateOf = Callable[[Mapping[str, Any]], Mapping[str, State]]
LooksAhead = Literal['never', 'in training', 'always']


@dataclasses.dataclass(frozen=True)
class Traits:
    """What a router declares beside its function.

    Attributes:
      reads: optional fields of the Context that it reads: 'noise_logits',
        'token_id'.
      looks_ahead: whether, and when, a token's experts depend on later tokens.
      state: a function from the router's options to its states by name; None
        for a router without state.
      replays: whether its weights are a function of its logits and of the
        experts, which then can be given, see `moe.routing.replay`. Its choice
        is that of `moe.routing.choice.choose`.
    """

    reads: frozenset[str] = frozenset()
    looks_ahead: LooksAhead = 'never'
    state: StateOf | None = None
    replays: bool = False


def traits(
    reads: Iterable[str] = (),
    looks_ahead: LooksAhead = 'never',
    state: StateOf | None = None,
    replays: bool = False,
) -> Callable[[AnyRouter], AnyRouter]:
    """Declares the `Traits` of a router; one without has the defaults.

    Args:
      reads: see `Traits`.
      looks_ahead: see `Traits`.
      state: see `Traits`, e.g. `lambda options: {'bias': options['balance']}`.
      replays: see `Traits`.

    Returns:
      A decorator.
    """

    def mark(router: AnyRouter) -> AnyRouter:
        declared = Traits(frozenset(reads), looks_ahead, state, replays)
        router.traits = declared  # type: ignore[attr-defined]
        return router

    return mark


def traits_of(router: Any) -> Traits:
    """Returns the traits of a router, or of a partial of one."""
    return getattr(entry_of(router), 'traits', Traits())


def states_of(router: Any) -> dict[str, State]:
    """Returns the states of a router with its options, by name."""
    declared = traits_of(router).state
    return dict(declared(options(router))) if declared else {}
