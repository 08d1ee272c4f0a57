"""The gate of a mixture layer: a router with its parameters and state.

B leading rows, S tokens a group, G groups, D width, E experts.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from moe.config import ConfigError
from moe.config.registry import name_of
from moe.parameters import parameter
from moe.routing import ROUTERS, replaying, token_uniform, top_k
from moe.routing.choice import REMOVED
from moe.types import (
    Context,
    Router,
    Routing,
    StateStatistic,
    states_of,
    traits_of,
)


class RouterState(NamedTuple):
    """The state of one router in one step.

    Attributes:
      values: values of its states by name, with which it chose.
      statistics: in training, the statistics of its states, by the path of the
        state among the variables `router_state`; see `Aux.state_statistics`.
    """

    values: dict[str, Any]
    statistics: dict[str, StateStatistic]


class Gate(nn.Module):
    """A router with its projections and its state.

    `logits = x W`, or `x W + b`, in float32, whatever the dtype of `x`.

    Attributes:
      num_experts: E.
      router: a function of (logits, context), e.g. `partial(top_k, k=1)`, or
        the name of one.
      jitter: in training the router sees `x * U(1 - jitter, 1 + jitter)`
        (Switch, arXiv 2101.03961).
      batch_prioritized: whether tokens take capacity by the router's
        confidence, and not in their order (arXiv 2106.05974).
      router_init: initializer of the router's kernel [D, E].
      router_bias: whether the logits have a trained bias [E], at first 0.
      noise_init: initializer of the noise logits' kernel [D, E].
      temperature: what the logits are divided by.
      dropout: probability that an expert is removed from a token's choice in
        training, never all of them: reduces gate collapse onto one expert.
    """

    num_experts: int
    router: Router | str = top_k
    jitter: float = 0.0
    batch_prioritized: bool = False
    router_init: Any = nn.initializers.variance_scaling(
        1.0, 'fan_in', 'truncated_normal'
    )
    router_bias: bool = False
    noise_init: Any = nn.initializers.zeros_init()
    temperature: float = 1.0
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, tokens: Float[Array, 'G S D'], context: Context
    ) -> tuple[Routing, RouterState]:
        """Routes the tokens.

        Args:
          tokens: tokens, float.
          context: the layer's context; inputs that the router reads are added.

        Returns:
          The Routing, and the router's state with its statistics.

        Raises:
          ConfigError: if the router is none, or `soft`, which has no Routing.
          ValueError: if jitter or dropout has no key in training.
        """
        router: Any = ROUTERS.find(self.router, 'router')
        inputs = self._jittered(tokens.astype(jnp.float32), context)
        if 'noise_logits' in traits_of(router).reads:
            noise = self._project('router_noise', inputs, self.noise_init)
            context = context._replace(noise_logits=noise)
        rules = states_of(router)
        state = {
            name: self.variable(
                'router_state', name, rule.init, self.num_experts
            ).value
            for name, rule in rules.items()
        }
        context = context._replace(state=state)
        logits = self._project('router', inputs, self.router_init)
        if self.router_bias:
            zeros, shape = nn.initializers.zeros_init(), (self.num_experts,)
            logits += parameter(self, 'router_bias', zeros, shape, decay=False)
        logits = self._with_dropout(logits / self.temperature, context)
        run = router if context.routes is None else replaying(router)
        routing = run(logits, context)
        if not isinstance(routing, Routing):
            allowed = 'a router of assignments (SoftMoE is the layer of soft)'
            raise ConfigError('router', name_of(router), allowed)
        # In expert choice, tokens do not compete for capacity.
        if self.batch_prioritized and routing.columns_are_tokens:
            routing = routing.replace(priority=_confidence(routing))
        statistics = {}
        if context.train:
            statistics = {
                '/'.join((*self.path, name)): StateStatistic(
                    rule.statistic(routing, state[name]), rule, self.num_experts
                )
                for name, rule in rules.items()
            }
        return routing, RouterState(state, statistics)

    def _jittered(self, inputs, context: Context):
        if not (self.jitter and context.train):
            return inputs
        low, high = 1.0 - self.jitter, 1.0 + self.jitter
        width = inputs.shape[-1]
        return inputs * self._uniform('jitter', context, width, low, high)

    def _with_dropout(self, logits, context: Context):
        """Returns the logits, with `REMOVED` for experts that are dropped."""
        if not (self.dropout and context.train):
            return logits
        draw = self._uniform('dropout', context, self.num_experts)
        best = jnp.max(draw, axis=-1, keepdims=True)
        dropped = (draw < self.dropout) & (draw < best)
        return jnp.where(dropped, REMOVED, logits)

    def _uniform(self, what, context: Context, *shape_and_range):
        if context.key is None:
            raise ValueError(f"MoE: {what} needs an rng named 'router'")
        key = jax.random.fold_in(context.key, ('jitter', 'dropout').index(what))
        return token_uniform(key, context.position, *shape_and_range)

    def _project(self, name, inputs, init):
        shape = (inputs.shape[-1], self.num_experts)
        kernel = parameter(self, name, init, shape, decay=False)
        return jnp.dot(inputs, kernel, precision=jax.lax.Precision.HIGHEST)


def _confidence(routing: Routing) -> Float[Array, 'G S']:
    """Returns the order of the greatest probabilities, also of those next to 1.

    It is `-log` of what the others sum to, or where that is 0 in float32 the
    lead of the greatest logit.
    """
    probs, logits = lax.stop_gradient((routing.probs, routing.logits))
    experts = jnp.arange(probs.shape[-1])
    best = jnp.argmax(probs, axis=-1, keepdims=True) == experts
    others = jnp.sum(jnp.where(best, 0.0, probs), axis=-1)
    lead = jnp.max(logits, axis=-1) - jnp.max(
        logits, -1, where=~best, initial=-jnp.inf
    )
    return jnp.where(others > 0, -jnp.log(others), jnp.maximum(lead, 88.0))


def in_groups(
    x: Float[Array, '*B S D'],
    mask: Bool[Array, '*B S'] | None,
    num_groups: int | None,
) -> tuple[Float[Array, 'G N D'], Bool[Array, 'G N']]:
    """Splits tokens into the groups in which they compete for capacity.

    Args:
      x: tokens, float.
      mask: True, or not 0, for valid tokens; None if all are.
      num_groups: G; None makes every leading row a group.

    Returns:
      The tokens, zeros where they are padding (which may hold anything, NaN
      included), and their mask.

    Raises:
      ConfigError: if x is no array of tokens, or the mask is not of its shape.
      ValueError: if the tokens do not divide into the groups.
    """
    if x.ndim < 2:
        raise ConfigError('MoE: shape of x', x.shape, '[..., S, D]')
    if mask is not None and mask.shape != x.shape[:-1]:
        allowed = f'{x.shape[:-1]}, one for each token'
        raise ConfigError('MoE: shape of mask', mask.shape, allowed)
    num_tokens = x.size // x.shape[-1]
    num_groups = num_groups or num_tokens // x.shape[-2]
    if num_tokens % num_groups:
        raise ValueError(
            f'MoE: {num_tokens} tokens do not divide into num_groups = '
            f'{num_groups}'
        )
    tokens = x.reshape(num_groups, -1, x.shape[-1])
    if mask is None:
        return tokens, jnp.ones(tokens.shape[:2], bool)
    valid = mask.reshape(tokens.shape[:2]).astype(bool)
    return jnp.where(valid[..., None], tokens, 0), valid
