"""Replay: a router sends tokens to the experts that were recorded.

Only the choice is replayed: the weights follow from the present logits by the
router's own rule, so that gradients reach the router as without replay.
Recorded experts travel as `routes` [batch, position, layer, K], int32, -1 for
none, as stacks of reinforcement learning exchange them.
Source: rollout routing replay, arXiv 2510.11370.

B batch, S positions, L mixture layers, G groups, K experts a token.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from moe.config import ConfigError
from moe.config.registry import name_of
from moe.types import Context, Router, Routing, TokenChoice, traits_of


def replaying(router: Router) -> Router:
    """Returns the router that sends tokens where `context.routes` says.

    `weight[t, k] = w(logits[t], routes[t])[k]` with the rule w of the router:
    of `top_k` the probabilities of these experts over their sum, of `sigmoid`
    their scores without the bias, and so on. A choice of -1 does not exist;
    what is normalised, is over those that exist.

    Args:
      router: an entry of `ROUTERS`, perhaps with options.

    Returns:
      The router; without routes in the context it is the given one.

    Raises:
      ConfigError: for a router whose weights do not follow from the experts of
        a token, such as expert choice; when called, for routes of another
        shape than the router's own choice.

    >>> import functools
    >>> from moe.routing import top_k
    >>> logits = jnp.log(jnp.array([[[0.1, 0.6, 0.3]]]))
    >>> context = Context(jnp.ones((1, 1), bool), jnp.zeros((1, 1), jnp.int32))
    >>> context = context._replace(routes=jnp.array([[[2, 0]]]))
    >>> routing = replaying(functools.partial(top_k, k=2))(logits, context)
    >>> [round(float(w), 4) for w in routing.weight.ravel()]
    [0.75, 0.25]
    """
    if not traits_of(router).replays:
        allowed = 'a router whose weights follow from logits and experts'
        raise ConfigError('routes of router', name_of(router), allowed)

    def run(logits: Any, context: Context) -> Routing:
        if context.routes is not None:
            free = context._replace(routes=None)
            routing = jax.eval_shape(lambda x: router(x, free), logits)
            own = routing.weight.shape
            wanted = (own[0], own[2], own[1])
            if context.routes.shape != wanted:
                allowed = f'{wanted}, of the {own[1]} choices of a token'
                raise ConfigError(
                    'shape of routes', context.routes.shape, allowed
                )
        return router(logits, context)

    return run


def recorded_routes(
    routing: Any, shape: tuple[int, ...]
) -> Int[Array, '*B S L K']:
    """Returns the experts of each token as they are replayed.

    Args:
      routing: the Routing of an `Aux`, stacked over L mixture layers.
      shape: shape of the tokens, such as [B, S].

    Returns:
      The experts, int32, first choices first; -1 for choices that do not
      exist, of padding too. Capacity does not matter.

    Raises:
      ConfigError: for a routing that is no token choice, or of two levels.
    """
    if not isinstance(routing, TokenChoice):
        allowed = 'of tokens that chose experts, at one level'
        raise ConfigError('routing to record', type(routing).__name__, allowed)
    expert = jnp.where(routing.valid, routing.expert, -1)  # [L, G, K, S]
    layers, _, k, _ = expert.shape
    rows = jnp.moveaxis(expert, 2, -1).reshape(layers, *shape, k)
    return jnp.moveaxis(rows, 0, -2)


def checked_routes(
    routes: Any, shape: tuple[int, ...], num_experts: int
) -> Int[np.ndarray, 'B S L K']:
    """Returns routes from elsewhere as int32, if they can be replayed.

    Args:
      routes: whole numbers, of any dtype.
      shape: [B, S, L], of the tokens and mixture layers.
      num_experts: E.

    Raises:
      ConfigError: for another shape, for experts that are none, and where a
        token names an expert twice.
    """
    found = np.asarray(routes)
    if found.ndim != 4 or found.shape[:3] != tuple(shape):
        raise ConfigError('shape of routes', found.shape, f'{(*shape, "K")}')
    if not np.issubdtype(found.dtype, np.integer):
        raise ConfigError('dtype of routes', str(found.dtype), 'whole numbers')
    wrong = found[(found < -1) | (found >= num_experts)]
    if wrong.size:
        allowed = f'from 0 to {num_experts - 1}, or -1 for none'
        raise ConfigError('routes', int(wrong[0]), allowed)
    ordered = np.sort(found, axis=-1)
    twice = (ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)
    if np.any(twice):
        at = tuple(int(i) for i in np.argwhere(twice)[0][:3])
        allowed = 'different experts of a token'
        raise ConfigError(f'routes{list(at)}', found[at].tolist(), allowed)
    return found.astype(np.int32)
