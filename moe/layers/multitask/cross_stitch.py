"""A network for each task, with their activations mixed after each level.

B examples, T tasks, D input width, H output width.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from moe.experts import Network, regularization
from moe.experts.network import Penalty, Pointwise
from moe.layers.multitask.architectures import MakeNetwork
from moe.layers.multitask.multi_gate import without_padding
from moe.layers.multitask.ple import level_activation
from moe.parameters import parameter
from moe.types import Aux


class CrossStitch(nn.Module):
    """T networks that mix their activations by learned matrices.

    After each level `h_t <- sum_s A[t, s] h_s`, with a learned matrix A [T, T]
    that at first is near the identity. Source: arXiv 1604.03539.

    Attributes:
      widths: widths of the layers of the networks, for each level.
      num_tasks: T.
      near: initial diagonal of A; the rest of each row shares `1 - near`.
      activation: after every layer but the last level's last, which is linear.
      network: makes a level's networks from `widths`, `num` and `activation`.
      kernel_penalty: penalty of the networks' kernels, as `regularization`
        takes it.
      bias_penalty: penalty of their biases.
    """

    widths: Sequence[Sequence[int]]
    num_tasks: int
    near: float = 0.9
    activation: Pointwise = 'relu'
    network: MakeNetwork = Network
    kernel_penalty: Penalty = None
    bias_penalty: Penalty = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'B *T D'],
        *,
        train: bool = False,
        mask: Bool[Array, 'B'] | None = None,
    ) -> tuple[Float[Array, 'B T H'], Aux]:
        """Runs the networks of each level and mixes their activations.

        Args:
          x: [B, D], to each task the same, or each one's own [B, T, D].
          train: whether this is training, for batch normalisation.
          mask: True for valid examples; None if all are. Padding counts in no
            statistic and gets output 0.

        Returns:
          The outputs, and the Aux with the loss 'regularization' and the
          statistics 'level_0/gate' [T, T] and so on, the matrices A.
        """
        valid = jnp.ones(x.shape[0], bool) if mask is None else mask
        x = without_padding(x, valid)
        stats, penalty = {}, jnp.zeros((), jnp.float32)
        for i, widths in enumerate(self.widths):
            last = i == len(self.widths) - 1
            level = self.network(
                widths,
                num=self.num_tasks,
                activation=level_activation(self.activation, widths, last),
                parent=None,
            ).clone(name=f'level_{i}', parent=self)
            h = level(x, train=train, mask=mask)
            penalty += regularization(
                level.variables.get('params', {}),
                self.kernel_penalty,
                self.bias_penalty,
            )
            shape = (self.num_tasks, self.num_tasks)
            stitch = parameter(
                self, f'stitch_{i}', self._near_identity, shape, decay=False
            )
            x = jnp.einsum('ts,bsh->bth', stitch, h)
            stats[f'level_{i}/gate'] = stitch
        return without_padding(x, valid), Aux(
            {'regularization': penalty}, stats
        )

    def _near_identity(self, key, shape, dtype) -> Float[Array, 'T T']:
        del key
        tasks = self.num_tasks
        if tasks == 1:
            return jnp.ones(shape, dtype)
        matrix = np.full((tasks, tasks), (1 - self.near) / (tasks - 1))
        np.fill_diagonal(matrix, self.near)
        return jnp.asarray(matrix, dtype)
