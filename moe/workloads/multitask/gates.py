"""The gates of multi-task mixtures, and their config."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Annotated, Any

from moe.config import ConfigError, Fraction, OneOf, PositiveFloat, Registry
from moe.layers.multitask import softmax
from moe.routing import ROUTERS
from moe.types import Router, traits_of


class Gates(Registry):
    """The registry of routers that can be gates over examples.

    Beside the entries registered here it has the routers of the library and of
    plugins that have no state, read only logits and noise, and do not always
    look ahead: a row of a table has no token id and no order.
    """

    def __getitem__(self, name: str) -> Callable:
        if name in self._entries:
            return self._entries[name]
        if name in ROUTERS and serves(ROUTERS[name]):
            return ROUTERS[name]
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        suitable = {name for name in ROUTERS if serves(ROUTERS[name])}
        return iter(sorted(suitable | set(self._entries)))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def name_of(self, choice: Any) -> str:
        """Returns the name of a gate; see `Registry.name_of`."""
        try:
            return super().name_of(choice)
        except KeyError:
            return ROUTERS.name_of(choice)


def serves(router: Router) -> bool:
    """Whether a router can be a gate over examples.

    Args:
      router: the router.
    """
    traits = traits_of(router)
    reads, state = traits.reads, traits.state
    if state is not None or not reads <= {'noise_logits'}:
        return False
    return traits.looks_ahead != 'always'


GATES = Gates('gate')
GATES.register('softmax')(softmax)


@dataclasses.dataclass(frozen=True)
class GateConfig:
    """The gates of a mixture; see `moe.layers.multitask.MultiGate`.

    Attributes:
      router: the router of each gate.
      temperature: what the logits are divided by.
      dropout: probability that an expert is removed from a gate's choice in
        training.
    """

    router: Annotated[Router, OneOf(GATES)] = softmax
    temperature: PositiveFloat = 1.0
    dropout: Fraction = 0.0

    def __post_init__(self):
        if self.dropout >= 1:
            raise ConfigError('dropout', self.dropout, 'less than 1')

    def options(self) -> dict[str, Any]:
        """Returns the settings, by the names of `MultiGate`'s fields."""
        return dict(vars(self))
