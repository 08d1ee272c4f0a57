"""Rows of parallel networks with learned routes between them.

B examples, D input width, N networks of a row, T tasks, H width.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from moe.experts.network import Penalty, regularization
from moe.layers.multitask.snr import SNR
from moe.types import Aux


class SNRLevels(nn.Module):
    """Rows of networks with routes between them, and to the tasks.

    The networks of the first row read the same input; each of the next rows,
    and each task, reads the sum of its routes from the row before.
    Source: Ma et al., AAAI 2019, Sub-Network Routing, figure 1.

    Attributes:
      networks: the N parallel networks of each level, [B, D] or [B, N, D] ->
        [B, N, H], e.g. `Network`.
      routes: the routes after each level; the last ones have T outputs.
      kernel_penalty: penalty of the networks' kernels, as `regularization`
        takes it.
      bias_penalty: penalty of their biases.
    """

    networks: Sequence[nn.Module]
    routes: Sequence[SNR]
    kernel_penalty: Penalty = None
    bias_penalty: Penalty = None

    def __call__(
        self,
        x: Float[Array, 'B D'],
        *,
        train: bool = False,
        mask: Bool[Array, 'B'] | None = None,
    ) -> tuple[Float[Array, 'B T H'], Aux]:
        """Runs the networks and the routes of all levels.

        Args:
          x: inputs of the first networks.
          train: whether this is training. Randomness comes from the 'router'
            rng stream.
          mask: True for valid examples; padding gets output 0.

        Returns:
          The outputs, and the Aux: losses 'l0', summed over the levels, and
          'regularization'; the statistics of `SNR` by level.
        """
        if mask is not None:
            x = jnp.where(mask[:, None], x, 0)
        total, stats = jnp.zeros(()), {}
        penalty = jnp.zeros(())
        for i, (networks, routes) in enumerate(
            zip(self.networks, self.routes, strict=True)
        ):
            x = networks(x, train=train, mask=mask)
            x, aux = routes(x, train=train, mask=mask)
            total += aux.losses['l0']
            penalty += aux.losses.get('regularization', 0.0)
            penalty += regularization(
                networks.variables.get('params', {}),
                self.kernel_penalty,
                self.bias_penalty,
            )
            for name, value in aux.stats.items():
                stats[f'level_{i}/{name}'] = value
        return x, Aux({'l0': total, 'regularization': penalty}, stats)
