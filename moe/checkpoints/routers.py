"""What a router does with logits, tried out on draws.

S tokens, E experts.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from moe.config import ConfigError
from moe.layers import MoEConfig
from moe.routing import ROUTERS
from moe.types import Context, Router, states_of, traits_of

_TOKENS = 256


def check_tried(moe: MoEConfig, field: str = 'config.model.moe') -> None:
    """Refuses mixtures that a transform of experts does not know.

    Args:
      moe: config of the mixtures.
      field: its name, for messages.

    Raises:
      ConfigError: for two levels, a soft mixture, or a router that reads more
        than logits.
    """
    if moe.hierarchy:
        allowed = 'None: experts of two levels are not transformed'
        raise ConfigError(f'{field}.hierarchy', 'given', allowed)
    name = ROUTERS.name_of(moe.router)
    if moe.is_soft or 'token_id' in traits_of(moe.router).reads:
        allowed = 'a router that chooses experts by its logits'
        raise ConfigError(f'{field}.router.name', name, allowed)


def gates_of(
    router: Router,
    logits: Float[np.ndarray, 'S E'],
    state: Mapping[str, Any] | None = None,
) -> Float[np.ndarray, 'S E']:
    """Returns the gates of tokens in evaluation, 0 where not chosen.

    Args:
      router: an entry of `ROUTERS` with its options, see `check_tried`.
      logits: router logits.
      state: values of its states by name; None for the first ones.
    """
    count, experts = logits.shape
    if state is None:
        rules = states_of(router)
        state = {name: rule.init(experts) for name, rule in rules.items()}
    context = Context(
        mask=jnp.ones((1, count), bool),
        position=jnp.arange(count, dtype=jnp.int32)[None],
        noise_logits=jnp.zeros((1, count, experts)),
        state=state,
    )
    routing = router(jnp.asarray(logits, jnp.float32)[None], context)
    return np.asarray(routing.gates())[0]


def drawn_logits(kernel: Float[np.ndarray, 'D E']) -> Float[np.ndarray, 'S E']:
    """Returns the logits of normal tokens, always the same.

    Args:
      kernel: the router's matrix.
    """
    draw = np.random.default_rng(0)
    tokens = draw.standard_normal((_TOKENS, kernel.shape[0]), np.float32)
    return tokens @ np.asarray(kernel, np.float32)
