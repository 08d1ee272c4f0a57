"""The config section of mixture layers, and how layers are built from it."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
from flax.core import FrozenDict

from moe.capacity import CAPACITIES, Capacity, CapacityFactor, Dropless
from moe.config import (
    ConfigError,
    NaturalFloat,
    NaturalInt,
    OneOf,
    PositiveInt,
    options,
)
from moe.config.registry import entry_of
from moe.dispatch import DISPATCHERS, Dispatcher
from moe.experts import EXPERTS, MLP, ZeroComputationExperts
from moe.experts.base import SUPPLIED, make_experts
from moe.layers.checks import experts_per_token, routing_of
from moe.layers.hierarchical import HierarchicalMoE
from moe.layers.moe import MoE
from moe.layers.shared import Shared, SharedGate
from moe.layers.soft_moe import SoftMoE
from moe.losses import AUXILIARY_LOSSES
from moe.parallel import COMMUNICATION, Communication, none
from moe.routing import ROUTERS, soft
from moe.types import (
    Router,
    traits_of,
)


@dataclasses.dataclass(frozen=True)
class HierarchyConfig:
    """Two levels of experts, each with a router of its own.

    Attributes:
      groups: M, groups of experts; each holds `num_experts / groups`.
      router: the router between the groups.
    """

    groups: PositiveInt
    router: Annotated[Router, OneOf(ROUTERS)] = ROUTERS['top2']


@dataclasses.dataclass(frozen=True)
class ZeroComputationConfig:
    """Zero-computation experts, beside the others.

    Attributes:
      zero: number of experts that return 0.
      copy: number of experts that return the token.
      constant: number of experts that mix the token with a trained vector.
    """

    zero: NaturalInt = 0
    copy: NaturalInt = 0
    constant: NaturalInt = 0


@dataclasses.dataclass(frozen=True)
class SharedConfig:
    """A network that every token goes through, beside the mixture.

    Attributes:
      network: the shared expert, of any expert type.
      gate: gate of its output: none, sigmoid or softmax, see
        `moe.layers.Shared`.
    """

    network: Annotated[Any, OneOf(EXPERTS, SUPPLIED)] = functools.partial(
        MLP, hidden=128
    )
    gate: SharedGate = 'none'


@dataclasses.dataclass(frozen=True)
class MoEConfig:
    """The config of a mixture layer.

    Attributes:
      num_experts: E, zero-computation experts not included.
      experts: the type of the experts.
      router: what chooses each token's experts; 'soft' for Soft MoE.
      router_bias: whether the logits of the routers have a trained bias.
      allow_lookahead: whether a causal model may have a router that sees later
        tokens.
      jitter: the router sees `x * U(1 - jitter, 1 + jitter)` in training.
      dispatcher: layout of the experts' rows; same values, different cost. None
        is the fastest.
      capacity: how many assignments an expert takes.
      communication: how tokens reach experts on other devices.
      num_groups: G, groups in which tokens compete for capacity; None for one
        a sequence.
      losses: auxiliary losses whose options are not their defaults, by the name
        that the run's `losses` gives a coefficient.
      hierarchy: two levels of experts; None for one.
      zero_computation: zero, copy and constant experts beside the others.
      shared: a network for all tokens; None for none.
    """

    num_experts: PositiveInt = 32
    experts: Annotated[Any, OneOf(EXPERTS, SUPPLIED)] = functools.partial(
        MLP, hidden=128
    )
    router: Annotated[Router, OneOf(ROUTERS)] = ROUTERS['top_k']
    router_bias: bool = False
    allow_lookahead: bool = False
    jitter: NaturalFloat = 0.0
    dispatcher: Annotated[Dispatcher, OneOf(DISPATCHERS)] | None = None
    capacity: Annotated[Capacity, OneOf(CAPACITIES)] = Dropless()
    communication: Annotated[Communication, OneOf(COMMUNICATION)] = none
    num_groups: PositiveInt | None = None
    losses: Mapping[str, Annotated[Any, OneOf(AUXILIARY_LOSSES)]] = FrozenDict()
    hierarchy: HierarchyConfig | None = None
    zero_computation: ZeroComputationConfig = ZeroComputationConfig()
    shared: SharedConfig | None = None

    def __post_init__(self):
        # Hashable, as static arguments of jax must be.
        object.__setattr__(self, 'losses', FrozenDict(self.losses))
        if self.jitter >= 1:
            raise ConfigError('jitter', self.jitter, 'less than 1')
        if self.num_experts % self.num_expert_groups:
            groups = self.num_expert_groups
            allowed = f'a divisor of num_experts ({self.num_experts})'
            raise ConfigError('hierarchy.groups', groups, allowed)
        self._check_communication()
        for field, router in self.routers.items():
            if field != 'router':
                count = self.num_expert_groups
            else:
                count = (
                    self._experts_of_a_group
                    + self._zero_computation.num_experts
                )
            self._check_router(field, router, count)

    def _check_router(self, field: str, router: Router, count: int):
        """Refuses routers that cannot serve, and settings they do not read."""
        if entry_of(router) is soft:
            self._check_soft(field)
            return
        routing = routing_of(router, count, field)
        limited = not isinstance(self.capacity, Dropless)
        if field == 'router' and not routing.columns_are_tokens and limited:
            owner = ROUTERS.name_of(router)
            allowed = f"'dropless': {owner} has a capacity_factor of its own"
            name = CAPACITIES.name_of(self.capacity)
            raise ConfigError('capacity.name', name, allowed)

    def _check_soft(self, field: str):
        if field != 'router':
            raise ConfigError(
                f'{field}.name', 'soft', 'a router of assignments'
            )
        if self.hierarchy or self._zero_computation.num_experts:
            allowed = (
                'a router of assignments, for two levels or zero-computation '
                'experts'
            )
            raise ConfigError('router.name', 'soft', allowed)
        unread: dict[str, tuple[Any, Any]] = {
            'capacity.name': (CAPACITIES.name_of(self.capacity), 'dropless'),
            'jitter': (self.jitter, 0.0),
            'router_bias': (self.router_bias, False),
        }
        for name, (value, default) in unread.items():
            if value != default:
                allowed = (
                    f'{default!r}, for a soft mixture, which reads no other'
                )
                raise ConfigError(name, value, allowed)

    def _check_communication(self):
        """all_to_all needs capacity buffers, ragged the dispatcher grouped."""
        choice = self.communication
        name, given = COMMUNICATION.name_of(choice), options(choice)
        dispatcher = self.dispatcher and DISPATCHERS.name_of(self.dispatcher)
        is_grouped = dispatcher == 'grouped'
        if dispatcher and name == ('all_to_all' if is_grouped else 'ragged'):
            other = 'ragged' if name == 'all_to_all' else 'all_to_all'
            allowed = f"'none', 'gather' or '{other}', of {dispatcher} rows"
            raise ConfigError('communication.name', name, allowed)
        if name != 'none' and self.is_soft:
            allowed = "'none', for a soft mixture"
            raise ConfigError('communication.name', name, allowed)
        factor = given.get('buffer_factor')
        if factor and (given['levels'] > 1 or self.hierarchy):
            allowed = 'None, but at one level of communication and of routers'
            raise ConfigError('communication.buffer_factor', factor, allowed)

    @property
    def is_soft(self) -> bool:
        """Whether the layer is a `SoftMoE`."""
        return entry_of(self.router) is soft

    @property
    def routers(self) -> dict[str, Router]:
        """Returns the routers of all levels by the name of their field."""
        routers = {'router': self.router}
        if self.hierarchy:
            routers['hierarchy.router'] = self.hierarchy.router
        return routers

    @property
    def experts_per_token(self) -> int | float:
        """Returns how many experts a token uses, at most or in the mean."""
        experts = experts_per_token(self.router)
        if self.hierarchy:
            experts *= experts_per_token(self.hierarchy.router)
        return experts

    @property
    def _zero_computation(self) -> ZeroComputationExperts:
        counts = self.zero_computation
        return ZeroComputationExperts(
            counts.zero, counts.copy, counts.constant, parent=None
        )

    @property
    def num_expert_groups(self) -> int:
        """Returns M, the number of groups of experts; 1 without a hierarchy."""
        return self.hierarchy.groups if self.hierarchy else 1

    @property
    def _experts_of_a_group(self) -> int:
        return self.num_experts // self.num_expert_groups

    def build(self, dtype: Any, down_scale: float) -> nn.Module:
        """Makes the linen module, without a parent.

        Args:
          dtype: dtype of the experts' computation.
          down_scale: factor on their initial output matrices.
        """
        make = functools.partial(
            make_experts, dtype=dtype, down_scale=down_scale
        )
        experts = make(self.experts, self._experts_of_a_group)
        free = self._zero_computation
        limits: dict[str, Any] = {}
        if isinstance(self.capacity, CapacityFactor):
            limits = {
                'capacity_factor': self.capacity.train,
                'eval_capacity_factor': self.capacity.eval,
                'min_capacity': self.capacity.minimum,
                'capacity_rule': self.capacity.rule,
                'batch_prioritized': self.capacity.prioritized,
            }
        layer: Any
        if self.is_soft:
            layer = SoftMoE(experts, self.router, self.num_groups, parent=None)
        else:
            layer = MoE(
                experts=experts,
                router=self.router,
                router_bias=self.router_bias,
                jitter=self.jitter,
                dispatcher=self.dispatcher,
                communication=self.communication,
                **limits,
                num_groups=None if self.hierarchy else self.num_groups,
                losses=self.losses,
                zero_computation=free if free.num_experts else None,
                parent=None,
            )
        if self.hierarchy:
            layer = HierarchicalMoE(
                layer,
                self.hierarchy.groups,
                self.hierarchy.router,
                self.num_groups,
                parent=None,
            )
        if self.shared:
            shared = make(self.shared.network, None)
            layer = Shared(layer, shared, self.shared.gate, parent=None)
        return layer


def check_model(
    config: MoEConfig, *, causal: bool, vocab_size: int | None
) -> str | None:
    """Checks that the mixtures can serve a model.

    Args:
      config: the mixtures' config.
      causal: whether no position may see a later one.
      vocab_size: number of the model's token ids; None if it has none.

    Returns:
      A warning, or None.

    Raises:
      ConfigError: for a router that the model cannot serve; its field is
        relative to the model.
    """
    warning = None
    for level, router in config.routers.items():
        field, name = f'moe.{level}', ROUTERS.name_of(router)
        reads = traits_of(router).reads
        if 'token_id' in reads and vocab_size is None:
            allowed = 'a router without token ids, in this model'
            raise ConfigError(f'{field}.name', name, allowed)
        size = options(router).get('vocab_size')
        if size and vocab_size and size < vocab_size:
            allowed = f"at least the model's vocab_size ({vocab_size})"
            raise ConfigError(f'{field}.vocab_size', size, allowed)
        if causal and config.is_soft:
            allowed = 'a router of assignments: soft slots are of one length'
            raise ConfigError(f'{field}.name', name, allowed)
        if causal and traits_of(router).looks_ahead == 'always':
            if not config.allow_lookahead:
                allowed = (
                    'a router that does not see later tokens, in a causal '
                    'model (or set allow_lookahead to True)'
                )
                raise ConfigError(f'{field}.name', name, allowed)
            warning = (
                f'{name} routing sees later tokens: losses of this causal '
                'model are lower than what it can do in generation'
            )
    return warning
