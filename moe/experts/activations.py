"""Activations of feed-forward networks, pointwise or gated.

N rows, F hidden width.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe.config import ConfigError, PositiveFloat, Registry
from moe.config.registry import entry_of

# Functions of hidden rows, or of rows of a gate and hidden rows if they are
# marked `gated`; options are keyword-only.
ACTIVATIONS = Registry('activation')

Hidden = Float[Array, '... F']
Activation = str | Callable[..., Array]


def gated(activation: Callable) -> Callable:
    """Marks an activation of two products: `activation(x W_gate, x W_up)`."""
    activation.is_gated = True  # type: ignore[attr-defined]
    return activation


def is_gated(activation: Any) -> bool:
    """Whether an activation, or a partial of one, is marked `gated`."""
    return getattr(entry_of(activation), 'is_gated', False)


def kernel_of(activation: Any) -> str | None:
    """Returns the name by which `moe.ops.gated_experts` knows an activation.

    Args:
      activation: an activation, or a partial of one.
    """
    entry = entry_of(activation)
    return next((f.__name__ for f in (swiglu, geglu) if entry is f), None)


def find(activation: Activation) -> Callable[..., Array]:
    """Returns the activation of a name; a function as it is.

    Args:
      activation: a name, or a function, perhaps with options.

    Raises:
      ConfigError: for a name that is not registered.
    """
    if isinstance(activation, str) and activation not in ACTIVATIONS:
        known = ', '.join(ACTIVATIONS)
        allowed = f'one of {known}, or a function'
        raise ConfigError('activation', activation, allowed)
    return ACTIVATIONS.find(activation, 'activation')


@ACTIVATIONS.register('relu')
def relu(h: Hidden) -> Hidden:
    """`max(h, 0)`."""
    return nn.relu(h)


@ACTIVATIONS.register('relu_squared')
def relu_squared(h: Hidden) -> Hidden:
    """`max(h, 0)^2`. Source: Primer, arXiv 2109.08668."""
    return jnp.square(nn.relu(h))


@ACTIVATIONS.register('gelu')
def gelu(h: Hidden) -> Hidden:
    """`h * Phi(h)`, in its tanh approximation. Source: arXiv 1606.08415."""
    return nn.gelu(h)


@ACTIVATIONS.register('silu')
def silu(h: Hidden) -> Hidden:
    """`h * sigmoid(h)`."""
    return nn.silu(h)


@ACTIVATIONS.register('swiglu')
@gated
def swiglu(gate: Hidden, up: Hidden) -> Hidden:
    """`silu(gate) * up`. Source: arXiv 2002.05202."""
    return nn.silu(gate) * up


@ACTIVATIONS.register('geglu')
@gated
def geglu(gate: Hidden, up: Hidden) -> Hidden:
    """`gelu(gate) * up`. Source: arXiv 2002.05202."""
    return nn.gelu(gate) * up


@ACTIVATIONS.register('clamped_swiglu')
@gated
def clamped_swiglu(
    gate: Hidden,
    up: Hidden,
    *,
    limit: PositiveFloat = 7.0,
    alpha: PositiveFloat = 1.702,
) -> Hidden:
    """`(u + 1) * g * sigmoid(alpha * g)` of clamped g and u, as in GPT-OSS.

    `g = min(gate, limit)` and `u = clip(up, -limit, limit)`.
    Source: the reference code of arXiv 2508.10925, `gpt_oss/torch/model.py`.

    Args:
      gate: rows of the gate.
      up: hidden rows.
      limit: greatest gate, and greatest size of a hidden number.
      alpha: factor in the sigmoid; 1.702 makes it near the gelu.
    """
    gate = jnp.minimum(gate, limit)
    up = jnp.clip(up, -limit, limit)
    return (up + 1) * (gate * nn.sigmoid(alpha * gate))
