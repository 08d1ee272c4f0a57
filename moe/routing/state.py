"""State of routers that the train step moves, and no gradient."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from moe.config import options

# Field of the Context -> its value before the first step, from E.
INITIAL_STATE: dict[str, Callable[[int], Array]] = {
    'bias': lambda num_experts: jnp.zeros((num_experts,), jnp.float32),
    'penalty': lambda num_experts: jnp.full((), 1e-8, jnp.float32),
}


def next_state(
    router: Any,
    name: str,
    value: Float[Array, '...'],
    load: Float[Array, '*L E'],
    experts_per_token: Float[Array, '*L'],
) -> Float[Array, '...']:
    """One field of routers' state after a step, for all layers at once.

    Args:
      router: the router, or a partial with its options.
      name: of the field, 'bias' [*L, E] or 'penalty' [*L].
      value: of the field, float32.
      load: of each expert in the step, any unit.
      experts_per_token: assignments of a live token in the step.

    Returns:
      The next value.
    """
    if name == 'bias':
        return updated_bias(value, load, _option(router, 'bias_rate'))
    share = 1 - experts_per_token / load.shape[-1]
    return updated_penalty(
        value,
        share,
        _option(router, 'sparsity'),
        _option(router, 'penalty_rate'),
    )


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
