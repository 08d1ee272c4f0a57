"""Multi-head latent attention: keys and values from one vector a position.

B batch, S positions, D width, H heads, r rank of what is kept of a position, q
rank of queries, n and p widths of the parts of a key without and with
positions, v width of a value.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from moe.config import PositiveInt
from moe.models.attention import (
    Attention,
    Cache,
    positions_within,
    write_at,
)
from moe.models.norms import RMSNorm
from moe.models.rope import rotate
from moe.ops.attention import attend_kept, within
from moe.parameters import parameter

# Of the norms inside, as transformers has it whatever the model's is.
_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class Latent:
    """Multi-head latent attention. Source: DeepSeek-V2, arXiv 2405.04434.

    Attributes:
      kv_rank: r, width of the vector that keys and values are made of.
      q_rank: q, width of that of queries; None projects them directly.
      nope_dim: n, width of the part of queries and keys without positions.
      rope_dim: p, width of the part with rotary positions; its key is the same
        for all heads.
      value_dim: v, width of the values.
    """

    kv_rank: PositiveInt = 512
    q_rank: PositiveInt | None = None
    nope_dim: PositiveInt = 128
    rope_dim: PositiveInt = 64
    value_dim: PositiveInt = 128


class LatentAttention(Attention):
    """Attention whose keys and values are products of a narrow vector.

    With `c = norm(x W_down)` [r] and `k = rotate(x W_rope)` [p] of a position,
    head h has the key `[c W_key[h]; k]` and the value `c W_value[h]`. The
    cache keeps c and k: decoding takes `q . c W_key = (q W_key^T) . c`, and
    multiplies by W_value after the mean over positions. Source: DeepSeek-V2,
    arXiv 2405.04434, section 2.1.

    Attributes:
      latent: its widths.
    """

    latent: Latent = Latent()

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
          cache: of the positions before `start`: as keys those of the rotary
            part, [B, M, 1, p], as values the vectors c, [B, M, 1, r].
          start: absolute position of `x[:, 0]`, int32; with a cache it may be
            one of each row, [B].
          segments: number of each position's document, int32, without a cache:
            it sees only its own, and positions count from its beginning.

        Returns:
          The outputs, and the cache with this call's positions written.
        """
        c, heads = self.latent, self.num_heads
        position = jnp.asarray(start)[..., None] + jnp.arange(x.shape[1])
        if segments is not None:
            position = positions_within(segments)
        inner = x
        if c.q_rank is not None:
            inner = self._matrix('query_down', x, (c.q_rank,))
            inner = RMSNorm(_EPSILON, name='query_down_norm')(inner)
        query = self._matrix(
            'query' if c.q_rank is None else 'query_up',
            inner,
            (heads, c.nope_dim + c.rope_dim),
        )
        kept = self._matrix('key_value_down', x, (c.kv_rank,))
        kept = RMSNorm(_EPSILON, name='key_value_norm')(kept)[:, :, None]
        turned = self._matrix('key_rope', x, (c.rope_dim,))[:, :, None]
        plain, moving = query[..., : c.nope_dim], query[..., c.nope_dim :]
        if self.rope is not None:
            moving = rotate(moving, position, self.rope)
            turned = rotate(turned, position, self.rope)
        to_key = self._weights('key_up', c.kv_rank, (heads, c.nope_dim))
        to_value = self._weights('value_up', c.kv_rank, (heads, c.value_dim))
        scale = self.scale
        if scale is None:
            scale = (c.nope_dim + c.rope_dim) ** -0.5
        if cache is None:
            query = jnp.concatenate([plain, moving], axis=-1)
            key = self._times(kept[:, :, 0], to_key)
            value = self._times(kept[:, :, 0], to_value)
            shared = jnp.broadcast_to(turned, moving.shape)
            key = jnp.concatenate([key, shared], axis=-1)
            given = None if self.scale is None else scale
            out = self._attend(query, key, value, segments, None, given)
        else:
            cache = Cache(
                write_at(cache.key, turned, start),
                write_at(cache.value, kept, start),
            )
            absorbed = jnp.einsum('bshn,rhn->bshr', plain, to_key)
            vectors = cache.value.astype(self.dtype)
            key = jnp.concatenate([vectors, cache.key.astype(self.dtype)], -1)
            columns = jnp.arange(key.shape[2])
            at = jnp.atleast_2d(position)[:, None, :, None]
            mean = attend_kept(
                jnp.concatenate([absorbed, moving], axis=-1),
                key,
                vectors,
                within(at, columns),
                scale=scale,
            )
            out = jnp.einsum('bshr,rhv->bshv', mean, to_value)
        out = checkpoint_name(out, 'attention')
        return self._output(out, x.shape), cache

    def _weights(self, name, inputs, outputs):
        """Makes a matrix, split over devices by its inputs and by heads."""
        init = nn.initializers.variance_scaling(
            1.0,
            'fan_in',
            'truncated_normal',
            in_axis=0,
            out_axis=tuple(range(1, 1 + len(outputs))),
        )
        own = ('heads', None) if len(outputs) == 2 else (None,)
        w = parameter(
            self,
            name,
            init,
            (inputs, *outputs),
            axes=('embed', *own),
            decay=True,
            matrix=(1, len(outputs)),
        )
        return w.astype(self.dtype)

    def _matrix(self, name, x, outputs):
        return self._times(x, self._weights(name, x.shape[-1], outputs))

    def _times(self, x, w):
        rows = x.astype(self.dtype).reshape(-1, x.shape[-1])
        y = rows @ w.reshape(x.shape[-1], -1)
        return y.reshape(*x.shape[:-1], *w.shape[1:])
