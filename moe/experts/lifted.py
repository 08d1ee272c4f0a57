"""Experts that are copies of any linen module."""

import flax.linen as nn
from jaxtyping import Array, Float, Int


class Lifted(nn.Module):
    """E copies of any linen module, each with its own parameters.

    Attributes:
      expert: the module, from rows [N, D] to rows [N, F].
      num_experts: E, number of copies.
    """

    expert: nn.Module
    num_experts: int
    takes_sorted_rows = False

    @nn.compact
    def __call__(
        self,
        rows: Float[Array, 'E N D'],
        sizes: Int[Array, 'E'] | None = None,
    ) -> Float[Array, 'E N F']:
        """Applies expert e to `rows[e]`.

        Args:
          rows: padded buffers, float. Empty rows are zeros, and the outputs for
            them are not read.
          sizes: not supported.

        Returns:
          The outputs.

        Raises:
          ValueError: if `sizes` is given: a module that is not written over
            groups of rows needs a padded dispatcher.
        """
        if sizes is not None:
            raise ValueError(
                'Lifted experts need padded buffers: dispatcher must be '
                "'indexed' or 'onehot', not 'grouped'"
            )
        apply = nn.vmap(
            lambda module, x: module(x),
            variable_axes={'params': 0, 'batch_stats': 0},
            split_rngs={'params': True, 'dropout': True},
            axis_size=self.num_experts,
        )
        return apply(self.expert, rows)
