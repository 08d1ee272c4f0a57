"""Two-layer feed-forward networks, as experts or one dense network.

E experts, N rows of a padded buffer, A sorted rows, D width, F hidden width.
"""

import functools
from typing import Annotated, Any

import flax.linen as nn
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from moe.config import ConfigError, OneOf, PositiveInt
from moe.experts import activations
from moe.experts.activations import ACTIVATIONS
from moe.experts.base import EXPERTS
from moe.ops import gated_experts, grouped_matmuls, takes_gated
from moe.ops.dropout import Rate, Seeds, dropped
from moe.parameters import parameter

_INNER = ('up', 'gate')


@EXPERTS.register('mlp')
class MLP(nn.Module):
    """A two-layer network, or E of them in parallel.

    `y = act(x W_up) W_down`, or gated, `y = act(x W_gate, x W_up) W_down`, such
    as `(silu(x W_gate) * x W_up) W_down` for 'swiglu'.

    Attributes:
      hidden: F, the hidden width.
      num_experts: E; None is one dense network.
      activation: an entry of `ACTIVATIONS`, perhaps with options, or its name;
        or any pointwise function, e.g. `nn.tanh`, which is not gated.
      use_bias: whether each product has a bias.
      dropout: share of the hidden units and of the outputs that are dropped in
        training, where rows have seeds: V-MoE's dropout of experts. A token
        loses the same of each expert.
      dtype: dtype of the computation; parameters are float32.
      down_scale: factor on the initial W_down, for deep residual stacks.
    """

    hidden: PositiveInt
    num_experts: int | None = None
    activation: Annotated[Any, OneOf(ACTIVATIONS)] = ACTIVATIONS['swiglu']
    use_bias: bool = False
    dropout: Rate = 0.0
    dtype: Any = jnp.float32
    down_scale: float = 1.0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, '... D'],
        sizes: Int[Array, 'E'] | None = None,
        seeds: Seeds | None = None,
    ) -> Float[Array, '... D']:
        """Applies the network to rows, each expert to its own.

        Args:
          x: any rows if dense; padded buffers [E, N, D]; or, with `sizes`,
            rows [A, D] sorted by expert.
          sizes: rows of each expert, int32.
          seeds: seed of each row's dropout, see `moe.ops.dropout`; None drops
            nothing.

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
        act = activations.find(self.activation)
        gated = activations.is_gated(act)
        products = functools.partial(self._products, sizes=sizes)
        shape, width = x.shape, x.shape[-1]
        x = x.astype(self.dtype)
        if self.num_experts is None:
            # As one matrix: XLA transposes the gradients of batched products.
            x = x.reshape(-1, width)
            seeds = None if seeds is None else seeds.reshape(-1)
        rate = 0.0 if seeds is None else self.dropout
        kernel = activations.kernel_of(act)
        if count and not (self.use_bias or rate) and takes_gated(x, kernel):
            return self._fused(x, sizes, kernel)
        names = _INNER if gated else ('up',)
        made = products(names, x, self.hidden)
        h, *gate = [checkpoint_name(y, 'hidden') for y in made]
        h = dropped(act(*gate, h), rate, seeds)
        (y,) = products(('down',), h, width, scale=self.down_scale)
        y = dropped(y, rate, seeds, site=1)
        return y.reshape(shape)

    def _fused(self, x, sizes, kernel):
        """Applies gated experts by one operation, in either layout of `x`."""
        width = x.shape[-1]
        ws = [self._weights(n, width, self.hidden, 1.0)[0] for n in _INNER]
        down, _ = self._weights('down', self.hidden, width, self.down_scale)
        padded = sizes is None
        if padded:
            sizes = jnp.full(len(x), x.shape[1], jnp.int32)
        rows = x.reshape(-1, width)
        y = gated_experts(rows, *ws, down, sizes, kernel, padded)
        return y.reshape(x.shape)

    def _products(self, names, x, features, *, sizes, scale=1.0):
        """Multiplies rows with parameters made here, in the layout of `x`."""
        made = [self._weights(n, x.shape[-1], features, scale) for n in names]
        ws, biases = zip(*made, strict=True)
        if self.num_experts is None:
            ys = [x @ w for w in ws]
        elif sizes is None:
            ys = [jnp.einsum('end,edf->enf', x, w) for w in ws]
        else:
            ys = list(grouped_matmuls(x, ws, sizes))
        pairs = zip(ys, biases, strict=True)
        return [
            y if bias is None else y + self._by_row(bias, x, sizes)
            for y, bias in pairs
        ]

    def _by_row(self, bias, x, sizes):
        """Returns the bias of each row, in the layout of `x`."""
        if self.num_experts is None:
            return bias
        if sizes is None:
            return bias[:, None]
        rows = jnp.arange(x.shape[0])
        expert = jnp.searchsorted(jnp.cumsum(sizes), rows, 'right')
        return jnp.take(bias, expert, 0, mode='fill', fill_value=0)

    def _weights(self, name, width, features, scale):
        """Makes a matrix, and its bias if there are biases."""
        lead = () if self.num_experts is None else (self.num_experts,)
        init = nn.initializers.variance_scaling(
            scale**2,
            'fan_in',
            'truncated_normal',
            batch_axis=tuple(range(len(lead))),
        )
        experts = () if not lead else ('expert',)
        inner = ('hidden', 'embed') if name == 'down' else ('embed', 'hidden')
        w = parameter(
            self,
            name,
            init,
            (*lead, width, features),
            axes=(*experts, *inner),
            decay=True,
            matrix=(1, 1),
        ).astype(self.dtype)
        if not self.use_bias:
            return w, None
        bias = parameter(
            self,
            f'{name}_bias',
            nn.initializers.zeros_init(),
            (*lead, features),
            axes=(*experts, None),
            decay=False,
        ).astype(self.dtype)
        return w, bias
