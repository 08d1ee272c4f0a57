"""Normalisations of the width of a residual stream.

D width.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe.parameters import parameter

Norm = Literal['rms', 'layer']


class RMSNorm(nn.Module):
    """`x / sqrt(mean(x^2) + epsilon) * scale`, in float32. arXiv 1910.07467."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, '... D']) -> Float[Array, '... D']:
        """Normalises the last axis; returns the dtype of `x`."""
        ones = nn.initializers.ones_init()
        scale = parameter(self, 'scale', ones, (x.shape[-1],), decay=False)
        wide = x.astype(jnp.float32)
        square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        normed = wide * jax.lax.rsqrt(square + self.epsilon)
        return (normed * scale).astype(x.dtype)


class LayerNorm(nn.Module):
    """`(x - mean(x)) / sqrt(var(x) + epsilon) * scale + bias`, in float32.

    The variance is the biased one. Source: arXiv 1607.06450.
    """

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, '... D']) -> Float[Array, '... D']:
        """Normalises the last axis; returns the dtype of `x`."""
        ones, zeros = nn.initializers.ones_init(), nn.initializers.zeros_init()
        shape = (x.shape[-1],)
        scale = parameter(self, 'scale', ones, shape, decay=False)
        bias = parameter(self, 'bias', zeros, shape, decay=False)
        wide = x.astype(jnp.float32)
        wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        normed = wide * jax.lax.rsqrt(variance + self.epsilon)
        return (normed * scale + bias).astype(x.dtype)


NORMS = {'rms': RMSNorm, 'layer': LayerNorm}
