"""The mixture-of-experts layer: parameters, and calls downstairs.

B leading rows, S tokens a row, T = B*S tokens, G groups, D width, E experts.
"""

import dataclasses
import functools
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from moe import losses
from moe.capacity import capacity
from moe.config import (
    ConfigError,
    NaturalFloat,
    OneOf,
    PositiveFloat,
    PositiveInt,
    options,
)
from moe.dispatch import EXECUTORS
from moe.experts import MLP, Activation
from moe.layers.account import account
from moe.routing import INITIAL_STATE, ROUTERS, token_uniform, top_k
from moe.types import Aux, Context, Router, Routing, used_by


@dataclasses.dataclass(frozen=True)
class MoEConfig:
    """A mixture layer of MLP experts, as a config describes it."""

    num_experts: PositiveInt
    d_ff: PositiveInt
    activation: Activation
    use_bias: bool
    router: Annotated[Router, OneOf(ROUTERS)]
    jitter: NaturalFloat
    executor: Literal['onehot', 'indexed', 'grouped']
    capacity_factor: PositiveFloat | None
    eval_capacity_factor: PositiveFloat | None
    min_capacity: PositiveInt
    num_groups: PositiveInt | None
    balance_scope: Literal['group', 'device', 'global']
    batch_prioritized: bool

    def __post_init__(self):
        k = choices(self.router)
        if k > self.num_experts:
            allowed = f'at most num_experts ({self.num_experts})'
            raise ConfigError('router.k', k, allowed)
        if self.jitter >= 1:
            raise ConfigError('jitter', self.jitter, 'less than 1')

    def build(self, dtype: Any, down_scale: float, name: str) -> 'MoE':
        """The linen module of this description."""
        experts = MLP(
            hidden=self.d_ff,
            num_experts=self.num_experts,
            activation=self.activation,
            use_bias=self.use_bias,
            dtype=dtype,
            down_scale=down_scale,
            parent=None,  # adopted by the MoE, not by the caller
        )
        return MoE(
            experts=experts,
            router=self.router,
            jitter=self.jitter,
            executor=self.executor,
            capacity_factor=self.capacity_factor,
            eval_capacity_factor=self.eval_capacity_factor,
            min_capacity=self.min_capacity,
            num_groups=self.num_groups,
            balance_scope=self.balance_scope,
            batch_prioritized=self.batch_prioritized,
            name=name,
        )


def choices(router: Router) -> int:
    """K, the experts a token uses: the router's option `k`, 1 without."""
    if isinstance(router, functools.partial):
        return router.keywords.get('k', choices(router.func))
    return options(router).get('k', 1)


class MoE(nn.Module):
    """Sends each token through a few of E experts and sums what they return.

    `y[t] = sum_e gate[t, e] * expert_e(x[t])` over the experts that the router
    chose for t and that had room. Router arithmetic is float32 whatever the
    dtype of `x`.

    Attributes:
      experts: a module with `num_experts`, e.g. `MLP` or `Lifted`.
      router: a function of (logits, context), e.g. `partial(top_k, k=1)`.
      jitter: in training the router sees `x * U(1 - jitter, 1 + jitter)`
        (Switch, arXiv 2101.03961).
      executor: 'onehot', 'indexed' or 'grouped'; same values, different cost.
      capacity_factor: of slots in training; None drops nothing.
      eval_capacity_factor: of slots in evaluation; None drops nothing.
      min_capacity: least slots of an expert in a group.
      num_groups: G; tokens compete for slots inside a group. None makes every
        leading row a group.
      balance_scope: over what the balance loss takes its means.
      batch_prioritized: whether slots go by the router's confidence, and not
        in token order (arXiv 2106.05974).
      router_init: initializer of the router's kernel [D, E].
    """

    experts: nn.Module
    router: Router = top_k
    jitter: float = 0.0
    executor: str = 'indexed'
    capacity_factor: float | None = None
    eval_capacity_factor: float | None = None
    min_capacity: int = 1
    num_groups: int | None = None
    balance_scope: losses.Scope = 'global'
    batch_prioritized: bool = False
    router_init: Any = nn.initializers.variance_scaling(
        1.0, 'fan_in', 'truncated_normal'
    )

    @nn.compact
    def __call__(
        self,
        x: Float[Array, '*B S D'],
        *,
        mask: Bool[Array, '*B S'] | None = None,
        token_ids: Int[Array, '*B S'] | None = None,
        recorded: Routing | None = None,
        train: bool = False,
        record: bool = False,
    ) -> tuple[Float[Array, '*B S F'], Aux]:
        """Routes, runs the experts, combines.

        Args:
          x: tokens, float.
          mask: True for live tokens; None if all are. Padding takes no slot,
            counts in nothing and gets output 0.
          token_ids: ids of the tokens, int32, for routers that hash them.
          recorded: a Routing to replay, for the router `replay`.
          train: training: jitter, and `capacity_factor`. Randomness comes
            from the 'router' rng stream.
          record: whether to return the Routing in the Aux.

        Returns:
          The outputs, and the Aux of `account`.

        Raises:
          ValueError: if the tokens do not divide into the groups.
        """
        num_tokens = x.size // x.shape[-1]
        num_sequences = num_tokens // x.shape[-2]
        num_groups = self.num_groups or num_sequences
        if num_tokens % num_groups:
            raise ValueError(
                f'MoE: {num_tokens} tokens do not divide into num_groups = '
                f'{num_groups}'
            )
        grid = (num_groups, num_tokens // num_groups)
        tokens = x.reshape(*grid, x.shape[-1])
        live = jnp.ones(grid, bool) if mask is None else mask.reshape(grid)
        if mask is not None:  # padding may hold anything, NaN included
            tokens = jnp.where(live[..., None], tokens, 0)
        random = train and self.has_rng('router')
        context = Context(
            mask=live,
            position=jnp.arange(num_tokens, dtype=jnp.int32).reshape(grid),
            key=self.make_rng('router') if random else None,
            train=train,
            token_id=None if token_ids is None else token_ids.reshape(grid),
            recorded=recorded,
        )
        routing, context = self._route(tokens, context)
        factor = self.capacity_factor if train else self.eval_capacity_factor
        slots = None
        if factor is not None and routing.token is None:
            slots = capacity(
                grid[1],
                routing.num_experts,
                routing.expert.shape[1],
                factor,
                self.min_capacity,
            )
        y, kept = EXECUTORS[self.executor](tokens, routing, self.experts, slots)
        aux = account(
            routing,
            kept,
            scope=self.balance_scope,
            num_sequences=num_sequences,
            record=record,
        )
        if context.penalty is not None:
            aux.losses['l1'] *= context.penalty
        return y.astype(x.dtype).reshape(*x.shape[:-1], -1), aux

    def _route(self, tokens, context: Context) -> tuple[Routing, Context]:
        """Runs the router on float32 logits, with all that it asks for."""
        inputs = self._jittered(tokens.astype(jnp.float32), context)
        needed = used_by(self.router)
        if 'noise_logits' in needed:
            zeros = nn.initializers.zeros_init()
            noise = self._project('router_noise', inputs, zeros)
            context = context._replace(noise_logits=noise)
        for name in INITIAL_STATE.keys() & needed:
            num_experts = self.experts.num_experts  # type: ignore
            make = functools.partial(INITIAL_STATE[name], num_experts)
            state = self.variable('router_state', name, make)
            given: dict[str, Any] = {name: state.value}
            context = context._replace(**given)
        logits = self._project('router', inputs, self.router_init)
        routing = self.router(logits, context)
        if self.batch_prioritized:
            confidence = jnp.max(routing.probs, axis=-1)
            routing = routing._replace(priority=confidence)
        return routing, context

    def _jittered(self, inputs, context: Context):
        if not (self.jitter and context.train):
            return inputs
        if context.key is None:
            raise ValueError("MoE: jitter needs an rng named 'router'")
        return inputs * token_uniform(
            jax.random.fold_in(context.key, 0),
            context.position,
            inputs.shape[-1],
            1.0 - self.jitter,
            1.0 + self.jitter,
        )

    def _project(self, name, inputs, init):
        shape = (inputs.shape[-1], self.experts.num_experts)  # type: ignore
        kernel = self.param(name, init, shape)
        return jnp.dot(inputs, kernel, precision=jax.lax.Precision.HIGHEST)
