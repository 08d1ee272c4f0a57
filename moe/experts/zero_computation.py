"""Zero-computation experts: zero, copy and constant.

G groups, S tokens a group, N zero-computation experts, D width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe.parameters import parameter


class ZeroComputationExperts(nn.Module):
    """Zero, copy and constant experts, in this order, without dispatch.

    `zero(x) = 0`, `copy(x) = x`, and `constant(x) = a x + b v` with a trained
    vector v and `(a, b) = softmax(x W)`. They have no capacity limit.
    Source: MoE++, arXiv 2410.07348, eq. 3-5.

    Attributes:
      num_zero: number of zero experts.
      num_copy: number of copy experts.
      num_constant: number of constant experts.
    """

    num_zero: int = 0
    num_copy: int = 0
    num_constant: int = 0

    @property
    def num_experts(self) -> int:
        """Returns N, the number of zero-computation experts."""
        return self.num_zero + self.num_copy + self.num_constant

    @nn.compact
    def __call__(
        self, x: Float[Array, 'G S D'], gates: Float[Array, 'G S N']
    ) -> Float[Array, 'G S D']:
        """Returns the gate-weighted sum of their outputs, in `x`'s dtype.

        Args:
          x: tokens, float.
          gates: gate of each zero-computation expert, 0 where not chosen,
            float32.
        """
        wide = x.astype(jnp.float32)
        first = self.num_zero + self.num_copy
        # The factor of each token itself.
        own = jnp.sum(gates[..., self.num_zero : first], axis=-1)
        if not self.num_constant:
            return (own[..., None] * wide).astype(x.dtype)
        gates = gates[..., first:]
        fan_in = nn.initializers.variance_scaling(
            1.0, 'fan_in', 'truncated_normal', batch_axis=0
        )
        width = x.shape[-1]
        normal = nn.initializers.normal(1.0)
        shape = (self.num_constant, width)
        vector = parameter(self, 'vector', normal, shape, decay=True)
        # A gate, as a router is.
        kernel = parameter(self, 'mix', fan_in, (*shape, 2), decay=False)
        mix = jnp.einsum('gsd,cdm->gscm', wide, kernel)
        mix = jax.nn.softmax(mix, axis=-1) * gates[..., None]
        own = own + jnp.sum(mix[..., 0], axis=-1)
        added = jnp.einsum('gsc,cd->gsd', mix[..., 1], vector)
        return (own[..., None] * wide + added).astype(x.dtype)
