"""Mixture layers as a config describes them."""

import dataclasses
import functools
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from moe import losses
from moe.capacity import CapacityRule
from moe.config import (
    ConfigError,
    NaturalFloat,
    NaturalInt,
    OneOf,
    PositiveFloat,
    PositiveInt,
    options,
)
from moe.experts import MLP, Activation, Cheap
from moe.layers.auxiliary import load_balance
from moe.layers.hierarchical import HierarchicalMoE
from moe.layers.moe import MoE
from moe.layers.shared import Shared, SharedGate
from moe.layers.soft_moe import SoftMoE
from moe.parallel import COMMUNICATION, Communication, none
from moe.routing import ROUTERS, next_state, soft
from moe.types import (
    Context,
    Router,
    traits_of,
)


@dataclasses.dataclass(frozen=True)
class MoEConfig:
    """A mixture layer, as a config describes it."""

    num_experts: PositiveInt = 32
    d_ff: PositiveInt = 128
    activation: Activation = 'swiglu'
    use_bias: bool = False
    router: Annotated[Router, OneOf(ROUTERS)] = ROUTERS['top_k']
    outer_experts: NaturalInt = 0
    outer_router: Annotated[Router, OneOf(ROUTERS)] = ROUTERS['top2']
    allow_lookahead: bool = False
    jitter: NaturalFloat = 0.0
    executor: Literal['onehot', 'indexed', 'grouped'] = 'grouped'
    communication: Annotated[Communication, OneOf(COMMUNICATION)] = none
    capacity_factor: PositiveFloat | None = None
    eval_capacity_factor: PositiveFloat | None = None
    min_capacity: PositiveInt = 4
    capacity_rule: CapacityRule = 'assignments'
    num_groups: PositiveInt | None = None
    balance_scope: losses.Scope = 'global'
    batch_prioritized: bool = False
    zero_experts: NaturalInt = 0
    copy_experts: NaturalInt = 0
    constant_experts: NaturalInt = 0
    shared_d_ff: NaturalInt = 0
    shared_gate: SharedGate = 'none'

    def __post_init__(self):
        if self.jitter >= 1:
            raise ConfigError('jitter', self.jitter, 'less than 1')
        if self.outer_experts and self.num_experts % self.outer_experts:
            allowed = f'0 or a divisor of num_experts ({self.num_experts})'
            raise ConfigError('outer_experts', self.outer_experts, allowed)
        self._check_communication()
        if self.outer_experts and _function(self.outer_router) is soft:
            allowed = 'a router of assignments'
            raise ConfigError('outer_router.name', 'soft', allowed)
        if not self.is_soft:
            count = self._mlps + self._cheap.num_experts
            _check('router', self.router, count)
            if self.outer_experts:
                _check('outer_router', self.outer_router, self.outer_experts)
        elif self.outer_experts or self._cheap.num_experts:
            allowed = 'a router of assignments, for two levels or cheap experts'
            raise ConfigError('router.name', 'soft', allowed)

    def _check_communication(self):
        """Capacity buffers travel whole, sorted rows as many as there are."""
        choice = self.communication
        name, given = COMMUNICATION.name_of(choice), options(choice)
        fits = {
            'all_to_all': self.executor != 'grouped',
            'ragged': self.executor == 'grouped',
        }
        if not fits.get(name, True):
            other = 'ragged' if name == 'all_to_all' else 'all_to_all'
            allowed = f"'none', 'gather' or '{other}', of {self.executor} rows"
            raise ConfigError('communication.name', name, allowed)
        if name != 'none' and self.is_soft:
            allowed = "'none', for a soft mixture"
            raise ConfigError('communication.name', name, allowed)
        factor = given.get('buffer_factor')
        if factor and (given['levels'] > 1 or self.outer_experts):
            allowed = 'None, but at one level of communication and of routers'
            raise ConfigError('communication.buffer_factor', factor, allowed)

    @property
    def is_soft(self) -> bool:
        """Whether this is a `SoftMoE`."""
        return _function(self.router) is soft

    @property
    def routers(self) -> dict[str, Router]:
        """The routers of all levels, by field."""
        routers = {'router': self.router}
        if self.outer_experts:
            routers['outer_router'] = self.outer_router
        return routers

    @property
    def experts_per_token(self) -> int | float:
        """How many of the MLP experts a token goes through, at most or mean."""
        experts = choices(self.router)
        if self.outer_experts:
            experts *= choices(self.outer_router)
        return experts

    @property
    def _cheap(self) -> Cheap:
        return Cheap(
            self.zero_experts,
            self.copy_experts,
            self.constant_experts,
            parent=None,
        )

    @property
    def _mlps(self) -> int:
        """MLP experts of a mixture, of each group of them at two levels."""
        return self.num_experts // (self.outer_experts or 1)

    def build(self, dtype: Any, down_scale: float) -> nn.Module:
        """The linen module of this description, to be another's attribute."""
        make = functools.partial(
            MLP,
            activation=self.activation,
            use_bias=self.use_bias,
            dtype=dtype,
            down_scale=down_scale,
            parent=None,
        )
        experts = make(hidden=self.d_ff, num_experts=self._mlps)
        layer: Any
        if self.is_soft:
            layer = SoftMoE(experts, self.router, self.num_groups, parent=None)
        else:
            layer = MoE(
                experts=experts,
                router=self.router,
                jitter=self.jitter,
                executor=self.executor,
                communication=self.communication,
                capacity_factor=self.capacity_factor,
                eval_capacity_factor=self.eval_capacity_factor,
                min_capacity=self.min_capacity,
                capacity_rule=self.capacity_rule,
                num_groups=None if self.outer_experts else self.num_groups,
                losses={
                    'load_balance': functools.partial(
                        load_balance, scope=self.balance_scope
                    )
                },
                batch_prioritized=self.batch_prioritized,
                cheap=self._cheap if self._cheap.num_experts else None,
                parent=None,
            )
        if self.outer_experts:
            layer = HierarchicalMoE(
                layer,
                self.outer_experts,
                self.outer_router,
                self.num_groups,
                parent=None,
            )
        if self.shared_d_ff:
            shared = make(hidden=self.shared_d_ff)
            layer = Shared(layer, shared, self.shared_gate, parent=None)
        return layer

    def next_router_state(self, state: Any, stats: dict[str, Any]) -> Any:
        """The state of all layers' routers after a step.

        Args:
          state: tree of their variables, stacked over the L mixture layers.
          stats: of the step, likewise.

        Returns:
          The next state.
        """

        def update(path, value):
            names = [key.key for key in path]
            router, load = self.router, stats['load']
            per_token = stats['experts_per_token']
            if 'outer' in names:
                router, load = self.outer_router, stats['outer_load']
                per_token = stats['outer_experts_per_token']
            elif self.outer_experts:
                lead = (*load.shape[:-1], self.outer_experts, -1)
                load = load.reshape(lead)
                per_token = stats['inner_experts_per_token']
            return next_state(router, names[-1], value, load, per_token)

        return jax.tree_util.tree_map_with_path(update, state)


def choices(router: Router) -> int | float:
    """Experts that a token uses: K at most, or a capacity factor in the mean.

    The router's option `k` or `capacity_factor`; 2 for top2, 1 without either.
    """
    given = _given(router)
    fixed = 2 if _function(router) is ROUTERS['top2'] else 1
    return given.get('k', given.get('capacity_factor', fixed))


def check_model(
    config: MoEConfig, *, causal: bool, vocab_size: int | None
) -> str | None:
    """Checks what a model asks of its mixtures.

    Args:
      config: of the mixtures.
      causal: whether no position may see a later one.
      vocab_size: of the model's token ids, None if it has none.

    Returns:
      A warning, or None.

    Raises:
      ConfigError: for a router that the model cannot serve; its field is
        relative to the model.
    """
    warning = None
    for level, router in config.routers.items():
        field, name = f'moe.{level}', _name(router)
        uses = traits_of(router).uses
        if 'token_id' in uses and vocab_size is None:
            allowed = 'a router without token ids, in this model'
            raise ConfigError(f'{field}.name', name, allowed)
        size = _given(router).get('vocab_size')
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


def _given(router: Any) -> dict[str, Any]:
    """The options of a router, as set or by default."""
    if isinstance(router, functools.partial):
        return {**options(router.func), **router.keywords}
    return options(router)


def _function(router: Any) -> Any:
    return router.func if isinstance(router, functools.partial) else router


def _name(router: Any) -> str:
    found = [n for n, r in ROUTERS.items() if r is _function(router)]
    return found[0] if found else repr(router)


def _check(field: str, router: Router, num_experts: int) -> None:
    """Traces the router: what it raises is told as the field's fault."""
    k = _given(router).get('k', 0)
    if k > num_experts:
        allowed = f'at most num_experts ({num_experts})'
        raise ConfigError(f'{field}.k', k, allowed)
    struct = jax.ShapeDtypeStruct
    grid = (1, 8)
    context = Context(
        mask=struct(grid, jnp.bool_),  # type: ignore[arg-type]
        position=struct(grid, jnp.int32),  # type: ignore[arg-type]
        train=None,  # type: ignore[arg-type]  # told to _route
        key=jax.eval_shape(lambda: jax.random.key(0)),
        noise_logits=struct((*grid, num_experts), jnp.float32),
        bias=struct((num_experts,), jnp.float32),
        penalty=struct((), jnp.float32),
        token_id=struct(grid, jnp.int32),
    )
    logits = struct((*grid, num_experts), jnp.float32)
    for train in (True, False):
        given = functools.partial(_route, router, train)
        try:
            jax.eval_shape(given, logits, context)
        except ValueError as error:
            allowed = f'able to route {num_experts} experts: {error}'
            raise ConfigError(f'{field}.name', _name(router), allowed) from None


def _route(router, train, logits, context):
    # A run evaluates without randomness.
    key = context.key if train else None
    return router(logits, context._replace(train=train, key=key))
