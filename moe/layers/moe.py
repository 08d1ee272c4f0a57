"""The mixture-of-experts layer: parameters, and calls downstairs.

B leading rows, S tokens a row, T = B*S tokens, G groups, D width, E experts.
"""

import dataclasses
import functools
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from moe import losses, stats
from moe.config import (
    ConfigError,
    NaturalFloat,
    OneOf,
    PositiveFloat,
    PositiveInt,
    options,
)
from moe.dispatch import EXECUTORS, capacity
from moe.experts import MLP, Activation
from moe.routing import ROUTERS, token_uniform, top_k
from moe.types import Aux, Context, Router


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
    router_init: Any = nn.initializers.variance_scaling(
        1.0, 'fan_in', 'truncated_normal'
    )

    @nn.compact
    def __call__(
        self,
        x: Float[Array, '*B S D'],
        *,
        mask: Bool[Array, '*B S'] | None = None,
        train: bool = False,
        record: bool = False,
    ) -> tuple[Float[Array, '*B S F'], Aux]:
        """Routes, runs the experts, combines.

        Args:
          x: tokens, float.
          mask: True for live tokens; None if all are. Padding takes no slot,
            counts in nothing and gets output 0.
          train: training: jitter, and `capacity_factor`. Randomness comes
            from the 'router' rng stream.
          record: whether to return the Routing in the Aux.

        Returns:
          The outputs, and the Aux with losses 'load_balance' and 'router_z'
          and the statistics of `stats.routing_stats`.

        Raises:
          ValueError: if the tokens do not divide into the groups.
        """
        num_experts: int = self.experts.num_experts  # type: ignore
        num_tokens = x.size // x.shape[-1]
        num_groups = self.num_groups or num_tokens // x.shape[-2]
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
        )
        routing = self.router(self._logits(tokens, context), context)
        counts = stats.expert_counts(routing.expert, routing.live, num_experts)
        factor = self.capacity_factor if train else self.eval_capacity_factor
        slots = None
        if factor is not None and routing.token is None:
            slots = capacity(
                grid[1],
                num_experts,
                routing.expert.shape[1],
                factor,
                self.min_capacity,
            )
        y, kept = EXECUTORS[self.executor](tokens, routing, self.experts, slots)
        aux = Aux(
            losses={
                'load_balance': losses.load_balance(
                    routing.probs, counts, live, scope=self.balance_scope
                ),
                'router_z': losses.router_z(routing.logits, live),
            },
            stats=stats.routing_stats(routing.probs, counts, kept, live),
            routing=routing if record else None,
        )
        return y.astype(x.dtype).reshape(*x.shape[:-1], -1), aux

    def _logits(self, tokens, context: Context):
        """Router logits in float32, of jittered inputs in training."""
        num_experts = self.experts.num_experts  # type: ignore
        width = tokens.shape[-1]
        kernel = self.param('router', self.router_init, (width, num_experts))
        inputs = tokens.astype(jnp.float32)
        if self.jitter and context.train:
            if context.key is None:
                raise ValueError("MoE: jitter needs an rng named 'router'")
            key = jax.random.fold_in(context.key, 0)
            inputs = inputs * token_uniform(
                key,
                context.position,
                width,
                1.0 - self.jitter,
                1.0 + self.jitter,
            )
        return jnp.dot(inputs, kernel, precision=jax.lax.Precision.HIGHEST)
