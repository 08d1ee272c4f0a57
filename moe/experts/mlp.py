"""Two-layer feed-forward networks, as experts or one dense network.

E experts, N rows of a padded buffer, A sorted rows, D width, F hidden width.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from moe.config import ConfigError, PositiveInt
from moe.experts.base import EXPERTS
from moe.ops import grouped_matmul
from moe.parameters import parameter

Activation = Literal['relu', 'gelu', 'silu', 'swiglu', 'geglu']

# name -> (pointwise function, whether a second matrix gates it)
_ACTIVATIONS: dict[str, tuple[Callable, bool]] = {
    'relu': (nn.relu, False),
    'gelu': (nn.gelu, False),
    'silu': (nn.silu, False),
    'swiglu': (nn.silu, True),
    'geglu': (nn.gelu, True),
}


@EXPERTS.register('mlp')
class MLP(nn.Module):
    """A two-layer network, or E of them in parallel.

    `y = act(x W_up) W_down`, or gated, `y = (act(x W_gate) * x W_up) W_down`.
    Source of the gated forms: arXiv 2002.05202.

    Attributes:
      hidden: F, the hidden width.
      num_experts: E; None is one dense network.
      activation: 'relu', 'gelu' or 'silu', gated 'swiglu' or 'geglu', or any
        pointwise function, e.g. `nn.tanh`, which is not gated.
      use_bias: whether each product has a bias.
      dtype: dtype of the computation; parameters are float32.
      down_scale: factor on the initial W_down, for deep residual stacks.
    """

    hidden: PositiveInt
    num_experts: int | None = None
    activation: Activation | Callable[[Array], Array] = 'swiglu'
    use_bias: bool = False
    dtype: Any = jnp.float32
    down_scale: float = 1.0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, '... D'],
        sizes: Int[Array, 'E'] | None = None,
    ) -> Float[Array, '... D']:
        """Applies the network to rows, each expert to its own.

        Args:
          x: any rows if dense; padded buffers [E, N, D]; or, with `sizes`,
            rows [A, D] sorted by expert.
          sizes: rows of each expert, int32.

        Returns:
          The outputs in `dtype`, in the shape of `x`.

        Raises:
          ConfigError: if the activation is neither a known name nor a
            function, or x is not the rows of E experts.
        """
        count = self.num_experts
        padded = count is not None and sizes is None
        if padded and (x.ndim != 3 or len(x) != count):
            allowed = f'[{count}, N, D], or [A, D] with sizes'
            raise ConfigError('MLP: shape of x', x.shape, allowed)
        act, gated = _pointwise(self.activation)
        product = functools.partial(self._product, sizes=sizes)
        shape, width = x.shape, x.shape[-1]
        x = x.astype(self.dtype)
        if self.num_experts is None:
            # As one matrix: XLA transposes the gradients of batched products.
            x = x.reshape(-1, width)
        h = checkpoint_name(product('up', x, self.hidden), 'hidden')
        if gated:
            gate = checkpoint_name(product('gate', x, self.hidden), 'hidden')
            h = act(gate) * h
        else:
            h = act(h)
        return product('down', h, width, scale=self.down_scale).reshape(shape)

    def _product(self, name, x, features, *, sizes, scale=1.0):
        """Multiplies rows with parameters made here, in the layout of `x`."""
        lead = () if self.num_experts is None else (self.num_experts,)
        init = nn.initializers.variance_scaling(
            scale**2,
            'fan_in',
            'truncated_normal',
            batch_axis=tuple(range(len(lead))),
        )
        shape = (*lead, x.shape[-1], features)
        experts = () if not lead else ('expert',)
        inner = ('hidden', 'embed') if name == 'down' else ('embed', 'hidden')
        w = parameter(
            self,
            name,
            init,
            shape,
            axes=(*experts, *inner),
            decay=True,
            matrix=(1, 1),
        ).astype(self.dtype)
        bias = None
        if self.use_bias:
            zeros = nn.initializers.zeros_init()
            bias = parameter(
                self,
                f'{name}_bias',
                zeros,
                (*lead, features),
                axes=(*experts, None),
                decay=False,
            ).astype(self.dtype)
        if not lead:
            y = x @ w
        elif sizes is None:
            y = jnp.einsum('end,edf->enf', x, w)
            bias = None if bias is None else bias[:, None]
        else:
            y = grouped_matmul(x, w, sizes)
            if bias is not None:
                rows = jnp.arange(x.shape[0])
                expert = jnp.searchsorted(jnp.cumsum(sizes), rows, 'right')
                bias = jnp.take(bias, expert, 0, mode='fill', fill_value=0)
        return y if bias is None else y + bias


def _pointwise(
    activation: Activation | Callable[[Array], Array],
) -> tuple[Callable[[Array], Array], bool]:
    """Returns the function of an activation, and whether a matrix gates it."""
    if callable(activation):
        return activation, False
    if activation not in _ACTIVATIONS:
        known = ', '.join(_ACTIVATIONS)
        raise ConfigError(
            'activation', activation, f'one of {known}, or a function'
        )
    return _ACTIVATIONS[activation]
