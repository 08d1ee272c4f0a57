"""Self-attention with rotary positions and an explicit key-value cache.

B batch, S positions of this call, M positions of the cache, D width, H query
heads, N key-value heads (H a multiple of N), h head width.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from moe.models.norms import RMSNorm
from moe.models.rope import Rope, rotate
from moe.ops.attention import (
    ATTENTION_KERNELS,
    attend_kept,
    traits_of,
    within,
)
from moe.parallel import over_heads
from moe.parameters import parameter


class Cache(NamedTuple):
    """Keys and values of the positions seen so far.

    Attributes:
      key: keys, [B, N, M, h] for one layer, stacked over L layers.
      value: values, of the shape of the keys.
    """

    key: Float[Array, '*L B N M h']
    value: Float[Array, '*L B N M v']


def positions_within(segments: Int[Array, 'B S']) -> Int[Array, 'B S']:
    """Returns each position's distance from the first one of its document.

    Args:
      segments: number of each position's document, int32, those of a document
        next to each other.
    """
    order = jnp.arange(segments.shape[1])
    begins = segments[:, 1:] != segments[:, :-1]
    begins = jnp.pad(begins, ((0, 0), (1, 0)), constant_values=True)
    first = lax.cummax(jnp.where(begins, order, 0), axis=1)
    return order - first


def write_at(
    old: Float[Array, 'B N M h'],
    new: Float[Array, 'B S N h'],
    start: int | Int[Array, '*B'],
) -> Float[Array, 'B N M h']:
    """Returns a cache with the positions from `start` on written.

    Args:
      old: the cache, float.
      new: what is written, converted to its dtype.
      start: the first position, int32; that of all rows, or of each.
    """
    new = jnp.swapaxes(new, 1, 2).astype(old.dtype)
    if jnp.ndim(start) == 0:
        return lax.dynamic_update_slice_in_dim(old, new, start, axis=2)
    write = functools.partial(lax.dynamic_update_slice_in_dim, axis=1)
    return jax.vmap(write)(old, new, start)


class Attention(nn.Module):
    """Multi-head attention, grouped-query if there are fewer key heads.

    Attributes:
      num_heads: H, number of query heads.
      num_kv_heads: N, number of key and value heads.
      causal: whether a position sees only itself and those before it.
      rope: rotary positions; None for no rotation.
      head_dim: h, width of a head; None for `D / H`.
      qk_norm: norm of queries and keys: none, head (each head) or width (all
        heads of a position at once).
      clip: bound on queries, keys and values, after the norm; None for none.
      bias: biases of the projections: none, qkv, or all (the output's too).
      scale: factor on the scores; None for `1 / sqrt(h)`.
      window: number of positions that a causal one sees, itself included; None
        for all.
      sinks: whether each head has a score without a value in its softmax.
      epsilon: epsilon of the norms.
      kernel: an entry of `moe.ops.ATTENTION_KERNELS`, or its name; decoding
        always takes XLA's.
      dtype: dtype of the computation.
      out_scale: factor on the initial output projection.
    """

    num_heads: int
    num_kv_heads: int
    causal: bool = True
    rope: Rope | None = Rope()
    head_dim: int | None = None
    qk_norm: str = 'none'
    clip: float | None = None
    bias: str = 'none'
    scale: float | None = None
    window: int | None = None
    sinks: bool = False
    epsilon: float = 1e-6
    kernel: str | Callable = 'xla'
    dtype: Any = jnp.float32
    out_scale: float = 1.0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'B S D'],
        cache: Cache | None = None,
        start: int | Int[Array, '*B'] = 0,
        segments: Int[Array, 'B S'] | None = None,
    ) -> tuple[Float[Array, 'B S D'], Cache | None]:
        """Attends within `x`, or from `x` to the cache and itself.

        Args:
          x: inputs, float.
          cache: keys and values of the positions before `start`.
          start: absolute position of `x[:, 0]`, int32; with a cache it may be
            one of each row, [B].
          segments: number of each position's document, int32, without a cache:
            it sees only its own, and positions count from its beginning.

        Returns:
          The outputs, and the cache with this call's positions written.
        """
        head = self.head_dim or x.shape[-1] // self.num_heads
        position = jnp.asarray(start)[..., None] + jnp.arange(x.shape[1])
        if segments is not None:
            position = positions_within(segments)
        query = self._project('query', x, self.num_heads, head)
        key = self._project('key', x, self.num_kv_heads, head)
        value = self._project('value', x, self.num_kv_heads, head)
        query, key = self._norm('query', query), self._norm('key', key)
        if self.clip is not None:
            query, key, value = (
                jnp.clip(z, -self.clip, self.clip) for z in (query, key, value)
            )
        if self.rope is not None:
            query = rotate(query, position, self.rope)
            key = rotate(key, position, self.rope)
        sinks = None
        if self.sinks:
            zeros, shape = nn.initializers.zeros_init(), (self.num_heads,)
            sinks = parameter(
                self, 'sinks', zeros, shape, axes=('heads',), decay=False
            )
        if cache is None:
            out = self._attend(query, key, value, segments, sinks, self.scale)
        else:
            new = (key, value)
            cache = Cache(
                *(write_at(*v, start) for v in zip(cache, new, strict=True))
            )
            columns = jnp.arange(cache.key.shape[2])
            at = jnp.atleast_2d(position)[:, None, :, None]
            out = attend_kept(
                query,
                cache.key.astype(self.dtype),
                cache.value.astype(self.dtype),
                within(at, columns, self.window),
                sinks,
                scale=self.scale,
            )
        out = checkpoint_name(out, 'attention')
        return self._output(out, x.shape), cache

    def _output(self, out, shape):
        """Projects the means of all heads back to the residual stream."""
        (heads, head), width = out.shape[2:], shape[-1]
        init = nn.initializers.variance_scaling(
            self.out_scale**2, 'fan_in', 'truncated_normal', in_axis=(0, 1)
        )
        w = parameter(
            self,
            'out',
            init,
            (heads, head, width),
            axes=('heads', None, 'embed'),
            decay=True,
            matrix=(2, 1),
        )
        out = out.reshape(-1, heads * head)
        y = out @ w.astype(self.dtype).reshape(-1, width)
        if self.bias == 'all':
            zeros = nn.initializers.zeros_init()
            b = parameter(self, 'out_bias', zeros, (width,), decay=False)
            y += b.astype(self.dtype)
        return y.reshape(shape)

    def _attend(self, query, key, value, segments, sinks, scale):
        """Runs the kernel, with those of its arguments that are needed."""
        run: Any = 'xla' if self.is_initializing() else self.kernel
        if isinstance(run, str):
            run = ATTENTION_KERNELS[run]
        given = {'scale': scale, 'window': self.window}
        given = {k: v for k, v in given.items() if v is not None}
        kernel: Callable = functools.partial(
            run, is_causal=self.causal, **given
        )
        if traits_of(run).by_device:
            kernel = over_heads(kernel)
        more = [segments, sinks]
        while more and more[-1] is None:
            more.pop()
        return kernel(query, key, value, *more)

    def _norm(self, name, x):
        """Normalises queries or keys, by head or all heads at once."""
        if self.qk_norm == 'none':
            return x
        norm = RMSNorm(self.epsilon, name=f'{name}_norm')
        if self.qk_norm == 'head':
            return norm(x)
        return norm(x.reshape(*x.shape[:2], -1)).reshape(x.shape)

    def _project(self, name, x, heads, head):
        init = nn.initializers.variance_scaling(
            1.0, 'fan_in', 'truncated_normal', in_axis=0, out_axis=(1, 2)
        )
        w = parameter(
            self,
            name,
            init,
            (x.shape[-1], heads, head),
            axes=('embed', 'heads', None),
            decay=True,
            matrix=(1, 2),
        )
        # As one matrix: XLA transposes the gradients of batched products.
        rows = x.astype(self.dtype).reshape(-1, x.shape[-1])
        y = rows @ w.astype(self.dtype).reshape(x.shape[-1], -1)
        y = y.reshape(*x.shape[:-1], heads, head)
        if self.bias == 'none':
            return y
        b = parameter(
            self,
            f'{name}_bias',
            nn.initializers.zeros_init(),
            (heads, head),
            axes=('heads', None),
            decay=False,
        )
        return y + b.astype(self.dtype)
