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

from moe.ops.attention import ATTENTION_KERNELS, traits_of
from moe.parallel import over_heads
from moe.parameters import parameter


class Cache(NamedTuple):
    """Keys and values of the positions seen so far.

    Attributes:
      key: keys, [B, M, N, h] for one layer, stacked over L layers.
      value: values, of the shape of the keys.
    """

    key: Float[Array, '*L B M N h']
    value: Float[Array, '*L B M N h']


def rotate(
    x: Float[Array, 'B S H h'], position: Int[Array, '*B S'], theta: float
) -> Float[Array, 'B S H h']:
    """Rotates queries or keys by their positions (rotary embedding).

    The pair `(x[i], x[i + h/2])` turns by `position * theta^(-2i/h)`.
    Source: RoFormer, arXiv 2104.09864.

    Args:
      x: queries or keys, float; h is even.
      position: absolute positions, int32, [S] or [B, S].
      theta: base of the wavelengths.

    Returns:
      The rotated x, in its dtype.
    """
    half = x.shape[-1] // 2
    frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = position[..., None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return turned.astype(x.dtype)


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
    old: Float[Array, 'B M ...'],
    new: Float[Array, 'B S ...'],
    start: int | Int[Array, '*B'],
) -> Float[Array, 'B M ...']:
    """Returns a cache with the positions from `start` on written.

    Args:
      old: the cache, float.
      new: what is written, converted to its dtype.
      start: the first position, int32; that of all rows, or of each.
    """
    new = new.astype(old.dtype)
    if jnp.ndim(start) == 0:
        return lax.dynamic_update_slice_in_dim(old, new, start, axis=1)
    write = functools.partial(lax.dynamic_update_slice_in_dim, axis=0)
    return jax.vmap(write)(old, new, start)


class Attention(nn.Module):
    """Multi-head attention, grouped-query if there are fewer key heads.

    Attributes:
      num_heads: H, number of query heads.
      num_kv_heads: N, number of key and value heads.
      causal: whether a position sees only itself and those before it.
      rope_theta: base of the rotary wavelengths; None for no rotation.
      kernel: an entry of `moe.ops.ATTENTION_KERNELS`, or its name; decoding
        always takes XLA's.
      dtype: dtype of the computation.
      out_scale: factor on the initial output projection.
    """

    num_heads: int
    num_kv_heads: int
    causal: bool = True
    rope_theta: float | None = 10_000.0
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
        width = x.shape[-1]
        head = width // self.num_heads
        position = jnp.asarray(start)[..., None] + jnp.arange(x.shape[1])
        if segments is not None:
            position = positions_within(segments)
        query = self._project('query', x, self.num_heads, head)
        key = self._project('key', x, self.num_kv_heads, head)
        value = self._project('value', x, self.num_kv_heads, head)
        if self.rope_theta is not None:
            query = rotate(query, position, self.rope_theta)
            key = rotate(key, position, self.rope_theta)
        if cache is None:
            run: Any = 'xla' if self.is_initializing() else self.kernel
            if isinstance(run, str):
                run = ATTENTION_KERNELS[run]
            attend: Callable = functools.partial(run, is_causal=self.causal)
            if traits_of(run).by_device:
                attend = over_heads(attend)
            more = () if segments is None else (segments,)
            out = attend(query, key, value, *more)
        else:
            new = (key, value)
            cache = Cache(
                *(write_at(*v, start) for v in zip(cache, new, strict=True))
            )
            columns = jnp.arange(cache.key.shape[1])
            seen = columns <= jnp.atleast_2d(position)[:, None, :, None]
            out = jax.nn.dot_product_attention(
                query,
                cache.key.astype(self.dtype),
                cache.value.astype(self.dtype),
                mask=seen,
            )
        out = checkpoint_name(out, 'attention')
        init = nn.initializers.variance_scaling(
            self.out_scale**2, 'fan_in', 'truncated_normal', in_axis=(0, 1)
        )
        w = parameter(
            self,
            'out',
            init,
            (self.num_heads, head, width),
            axes=('heads', None, 'embed'),
            decay=True,
            matrix=(2, 1),
        )
        out = out.reshape(-1, self.num_heads * head)
        y = out @ w.astype(self.dtype).reshape(-1, width)
        return y.reshape(x.shape), cache

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
        return y.reshape(*x.shape[:-1], heads, head)
