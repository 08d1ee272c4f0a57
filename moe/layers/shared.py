"""Shared experts: a dense network beside a mixture."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from moe.ops.dropout import drops, make_seeds
from moe.parameters import parameter
from moe.types import Aux

SharedGate = Literal['none', 'sigmoid', 'softmax']


class Shared(nn.Module):
    """A mixture and a network that every token goes through.

    `y = mixture(x) + shared(x)` with the gate 'none': shared experts
    (DeepSeekMoE, arXiv 2401.06066) or, around one chosen expert, the residual
    mixture (arXiv 2201.05596). With 'sigmoid' the shared output is multiplied
    by `sigmoid(x w)` (Qwen1.5-MoE); with 'softmax' the two are weighted by
    `softmax(x W)` (DeepSpeed's residual mixture).

    Attributes:
      mixture: any layer that returns outputs and an Aux.
      shared: the dense network.
      gate: 'none', 'sigmoid' or 'softmax'; its arithmetic is float32.
    """

    mixture: nn.Module
    shared: nn.Module
    gate: SharedGate = 'none'

    @nn.compact
    def __call__(
        self,
        x: Float[Array, '*B S D'],
        *,
        mask: Bool[Array, '*B S'] | None = None,
        **options,
    ) -> tuple[Float[Array, '*B S D'], Aux]:
        """Runs the mixture and the shared network, and adds their outputs.

        Args:
          x: tokens, float.
          mask: True for valid tokens; padding gets output 0.
          **options: options of the mixture, such as `train`.

        Returns:
          The outputs, and the mixture's Aux.
        """
        if mask is not None:
            x = jnp.where(mask[..., None], x, 0)
        y, aux = self.mixture(x, mask=mask, **options)
        more = {}
        if options.get('train') and drops(self.shared):
            at = jnp.arange(x.size // x.shape[-1]).reshape(x.shape[:-1])
            more = {'seeds': make_seeds(self.make_rng('router'), at)}
        shared = self.shared(x, **more)
        if mask is not None:
            shared = jnp.where(mask[..., None], shared, 0)
        if self.gate == 'none':
            return y + shared, aux
        init = nn.initializers.variance_scaling(
            1.0, 'fan_in', 'truncated_normal'
        )
        width = {'sigmoid': 1, 'softmax': 2}[self.gate]
        shape = (x.shape[-1], width)
        kernel = parameter(self, 'shared_gate', init, shape, decay=False)
        logits = x.astype(jnp.float32) @ kernel
        if self.gate == 'sigmoid':
            return y + jax.nn.sigmoid(logits).astype(x.dtype) * shared, aux
        weight = jax.nn.softmax(logits, axis=-1).astype(x.dtype)
        return weight[..., :1] * y + weight[..., 1:] * shared, aux
