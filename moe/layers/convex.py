"""A convex combination of parallel networks."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe.parameters import parameter
from moe.types import Aux


class ConvexCombination(nn.Module):
    """Sums networks with learned weights that do not depend on the input.

    `y = sum_i softmax(theta)_i * network_i(x_i)`: whatever theta becomes, the
    weights are positive and sum to 1. All networks run on every example.

    Attributes:
      networks: N modules, whose outputs have one shape.
    """

    networks: tuple[nn.Module, ...]

    @nn.compact
    def __call__(
        self, x: Array | Sequence[Array], **options
    ) -> tuple[Float[Array, '...'], Aux]:
        """Runs the networks and sums their outputs.

        Args:
          x: the input of all networks, or a sequence with one for each.
          **options: options of every network, such as `train`.

        Returns:
          The sum, in the networks' dtype, and the statistic 'weights' [N].

        Raises:
          ValueError: if there are more or fewer inputs than networks, or
            their outputs differ in shape.
        """
        count = len(self.networks)
        inputs = x if isinstance(x, tuple | list) else (x,) * count
        if len(inputs) != count:
            raise ValueError(
                f'ConvexCombination: {len(inputs)} inputs of {count} networks'
            )
        uniform = nn.initializers.uniform(1.0)
        theta = parameter(self, 'theta', uniform, (count,), decay=False)
        weights = jax.nn.softmax(theta)
        outputs = jnp.stack(
            [f(inputs[i], **options) for i, f in enumerate(self.networks)]
        )
        y = jnp.tensordot(weights.astype(outputs.dtype), outputs, 1)
        return y, Aux(losses={}, stats={'weights': weights})
