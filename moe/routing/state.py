"""State of routers that the train step moves, and no gradient."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe.config import options

# Field of the Context -> its value before the first step, from E.
INITIAL_STATE: dict[str, Callable[[int], Array]] = {
    'bias': lambda num_experts: jnp.zeros((num_experts,), jnp.float32),
    'penalty': lambda num_experts: jnp.full((), 1e-8, jnp.float32),
}


def updated_state(router: Any, state: Any, stats: Mapping[str, Array]) -> Any:
    """The state of all layers' routers after a step.

    Args:
      router: `functools.partial` of a router, with its options.
      state: tree whose leaves' last keys are 'bias' [L, E] or 'penalty' [L].
      stats: of the step, stacked over the L mixture layers.

    Returns:
      The next state.
    """

    def update(path, value):
        if path[-1].key == 'bias':
            rate = _option(router, 'bias_rate')
            return updated_bias(value, stats['load'], rate)
        share = 1 - stats['experts_per_token'] / stats['load'].shape[-1]
        return updated_penalty(
            value,
            share,
            _option(router, 'sparsity'),
            _option(router, 'penalty_rate'),
        )

    return jax.tree_util.tree_map_with_path(update, state)


def updated_bias(
    bias: Float[Array, '*L E'], load: Float[Array, '*L E'], rate: float
) -> Float[Array, '*L E']:
    """The bias after a step: up where the load is below its mean.

    `bias + rate * sign(mean(load) - load)`, minus the change's mean.
    Source: arXiv 2408.15664, algorithm 1; centred as there in section 3.

    Args:
      bias: of each expert, float32.
      load: of each expert in the step, any unit.
      rate: size of the change.

    Returns:
      The new bias.
    """
    mean = jnp.mean(load, axis=-1, keepdims=True)
    change = rate * jnp.sign(mean - load)
    return bias + change - jnp.mean(change, axis=-1, keepdims=True)


def updated_penalty(
    penalty: Float[Array, '...'],
    share: Float[Array, '...'],
    sparsity: float,
    rate: float,
) -> Float[Array, '...']:
    """The coefficient of the L1 loss after a step.

    `penalty * rate^sign(sparsity - share)`. Source: arXiv 2412.14711, eq. 8.

    Args:
      penalty: the coefficient, float32.
      share: of the gates that were zero in the step.
      sparsity: the share that is wanted.
      rate: factor of the change.

    Returns:
      The new coefficient.
    """
    return penalty * rate ** jnp.sign(sparsity - share)


def _option(router: Any, name: str) -> float:
    """An option of a router: as it was set, or its default."""
    if isinstance(router, functools.partial):
        return router.keywords.get(name, options(router.func)[name])
    return options(router)[name]
