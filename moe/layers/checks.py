"""Checks of a config's routers, before any layer is made."""

import functools

import jax
import jax.numpy as jnp

from moe.config import ConfigError, options
from moe.config.registry import entry_of
from moe.routing import ROUTERS, top2
from moe.types import Context, Router, Routing, states_of


def experts_per_token(router: Router) -> int | float:
    """Returns how many experts a token uses, at most or in the mean.

    It is the router's option `k`, or the `capacity_factor` of experts that
    choose; 2 for top2, and 1 without either.

    Args:
      router: an entry of `ROUTERS` with its options.
    """
    given = options(router)
    fixed = 2 if entry_of(router) is top2 else 1
    return given.get('k', given.get('capacity_factor', fixed))


def routing_of(router: Router, num_experts: int, field: str) -> Routing:
    """Returns the shapes of a router's routing of 8 tokens, by tracing it.

    Args:
      router: an entry of `ROUTERS` with its options.
      num_experts: E.
      field: name of the router in the config, for messages.

    Raises:
      ConfigError: for a router that cannot route so many experts.
    """
    k = options(router).get('k', 0)
    if k > num_experts:
        allowed = f'at most num_experts ({num_experts})'
        raise ConfigError(f'{field}.k', k, allowed)
    struct = jax.ShapeDtypeStruct
    grid = (1, 8)
    context = Context(
        mask=struct(grid, jnp.bool_),  # type: ignore[arg-type]
        position=struct(grid, jnp.int32),  # type: ignore[arg-type]
        train=None,  # type: ignore[arg-type]  # set by _route
        key=jax.eval_shape(lambda: jax.random.key(0)),
        noise_logits=struct((*grid, num_experts), jnp.float32),
        state={
            name: jax.eval_shape(functools.partial(rule.init, num_experts))
            for name, rule in states_of(router).items()
        },
        token_id=struct(grid, jnp.int32),
    )
    logits = struct((*grid, num_experts), jnp.float32)
    for train in (True, False):
        given = functools.partial(_route, router, train)
        try:
            routing = jax.eval_shape(given, logits, context)
        except ValueError as error:
            allowed = f'able to route {num_experts} experts: {error}'
            raise ConfigError(
                f'{field}.name', ROUTERS.name_of(router), allowed
            ) from None
    return routing


def _route(router, train, logits, context):
    # Evaluation has no random key.
    key = context.key if train else None
    return router(logits, context._replace(train=train, key=key))
