"""Pre-norm transformer blocks, any of which may have a mixture.

B batch, S positions, D width.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from moe.experts import make_experts
from moe.models.attention import Attention, Cache
from moe.models.config import TransformerConfig
from moe.models.latent import LatentAttention
from moe.models.pattern import (
    Kind,
    RoutesOfScans,
    Scan,
    in_order,
    scanned,
    singles,
)
from moe.ops.dropout import dropped, drops, kept_branches, make_seeds
from moe.parallel import split_batch
from moe.types import Aux

# What the backward pass keeps of a block; it recomputes the rest.
REMAT_POLICIES = {
    'none': None,
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    'hidden': jax.checkpoint_policies.save_only_these_names(
        'attention', 'hidden', 'returned'
    ),
    'full': jax.checkpoint_policies.nothing_saveable,
}


def attention_of(
    config: TransformerConfig, kind: Kind, causal: bool, *, name: str
) -> nn.Module:
    """Makes the attention of one block.

    Args:
      config: config of the stack.
      kind: what the layer is.
      causal: whether a position sees only itself and those before it.
      name: name of the module inside the block.
    """
    c = config
    shared: dict[str, Any] = {
        'num_heads': c.num_heads,
        'num_kv_heads': c.num_kv_heads,
        'causal': causal,
        'rope': c.rope,
        'scale': c.attention_scale,
        'kernel': c.attention,
        'dtype': jnp.dtype(c.dtype),
        'out_scale': c.down_scale,
        'name': name,
    }
    if c.latent is not None:
        return LatentAttention(latent=c.latent, **shared)
    return Attention(
        head_dim=c.head_dim,
        qk_norm=c.qk_norm,
        clip=c.clip_qkv,
        bias=c.attention_bias,
        window=c.sliding_window if kind.windowed else None,
        sinks=c.attention_sinks,
        epsilon=c.norm_epsilon,
        **shared,
    )


class Block(nn.Module):
    """Attention, then a dense or a mixture feed-forward; both residual.

    Attributes:
      config: config of the stack.
      kind: what the layer is.
      moe: the mixture layer; None for a dense feed-forward.
      causal: whether a position sees only itself and those before it.
    """

    config: TransformerConfig
    kind: Kind
    moe: nn.Module | None
    causal: bool

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'B S D'],
        cache: Cache | None,
        mask: Bool[Array, 'B S'] | None,
        token_ids: Int[Array, 'B S'] | None,
        start: int | Int[Array, '*B'],
        train: bool,
        record: bool,
        segments: Int[Array, 'B S'] | None = None,
        routes: Int[Array, 'B S K'] | None = None,
        depth: Float[Array, ''] | None = None,
    ) -> tuple[Float[Array, 'B S D'], Cache | None, Aux | None]:
        """Returns the outputs, the cache, and the mixture's Aux if it is one.

        Args:
          x: inputs, float.
          cache: this layer's keys and values, if decoding.
          mask: True for valid tokens, for the mixture; None if all are.
          token_ids: token ids for routers that read them, int32.
          start: absolute position of `x[:, 0]`, int32; with a cache also [B].
          train: whether this is training.
          record: whether the Aux has the Routing.
          segments: number of each position's document, int32; None for one.
          routes: experts that the mixture replays, see `moe.routing.replay`.
          depth: share of the examples that lose a branch, float32; None for 0.
        """
        c = self.config
        dtype, scale = jnp.dtype(c.dtype), c.down_scale
        x = split_batch(x)
        dense = None
        if not self.moe:
            dense = make_experts(
                c.dense, None, dtype=dtype, down_scale=scale, name='mlp'
            )
        has_own = dense is not None and drops(dense)
        seeds = branches = None
        if train and (c.dropout or has_own or depth is not None):
            key, branches = jax.random.split(self.make_rng('router'))
            seeds = make_seeds(key, _positions(x))
        h, cache = attention_of(c, self.kind, self.causal, name='attention')(
            c.make_norm('attention_norm')(x),
            cache,
            start,
            segments,
        )
        h = _kept(dropped(h, c.dropout, seeds, site=2), branches, depth, 0)
        x = split_batch(self._added(x, h))
        h = split_batch(c.make_norm('mlp_norm')(x))
        if self.moe:
            more = {} if routes is None else {'routes': routes}
            y, aux = self.moe(
                h,
                mask=mask,
                token_ids=token_ids,
                train=train,
                record=record,
                **more,
            )
            y = _kept(y, branches, depth, 1)
            return self._added(x, y), cache, aux
        assert dense is not None
        y = dense(h, seeds=seeds) if has_own else dense(h)
        y = _kept(y, branches, depth, 1)
        return self._added(x, y), cache, None

    def _added(self, x, y):
        scale = self.config.residual_scale
        return x + y if scale is None else x + y * scale


def _positions(x: Float[Array, 'B S D']) -> Int[Array, 'B S']:
    """Returns the position of each token in the global batch."""
    return jnp.arange(x.shape[0] * x.shape[1]).reshape(x.shape[:2])


def _kept(y, key, rate, branch: int):
    """Returns a residual branch, 0 in the examples that lose it."""
    if rate is None:
        return y
    keep = kept_branches(jax.random.fold_in(key, branch), rate, len(y))
    return jnp.where(keep[:, None, None], y / (1 - rate), 0).astype(y.dtype)


class Stack(nn.Module):
    """All blocks, as one or several scans over repetitions of a pattern.

    Parameters are stacked: the first axis of each is the repetition. See
    `TransformerConfig.places` for where those of a layer are.

    Attributes:
      config: config of the blocks.
      causal: whether a position sees only itself and those before it.
      scans: the scans; None for those of all layers of the config.
      apart: whether each layer is by itself, its parameters and its Cache not
        stacked, for evaluation: see `moe.models.pattern.apart`.
    """

    config: TransformerConfig
    causal: bool
    scans: tuple[Scan, ...] | None = None
    apart: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'B S D'],
        *,
        cache: tuple[Cache, ...] | None = None,
        mask: Bool[Array, 'B S'] | None = None,
        token_ids: Int[Array, 'B S'] | None = None,
        start: int | Int[Array, '*B'] = 0,
        train: bool = False,
        record: bool = False,
        segments: Int[Array, 'B S'] | None = None,
        routes: Int[Array, 'B S L K'] | None = None,
    ) -> tuple[Float[Array, 'B S D'], tuple | None, Aux | None]:
        """Runs all blocks.

        Args:
          x: inputs, float.
          cache: one Cache for each layer of the pattern of each scan, each
            stacked over repetitions (see `empty_cache`).
          mask: True for valid tokens, for the mixtures; None if all are.
          token_ids: token ids for routers that read them, int32.
          start: absolute position of `x[:, 0]`, int32; with a cache also [B].
          train: whether this is training.
          record: whether the Aux has the Routing.
          segments: number of each position's document, int32, which sees no
            other; None for one.
          routes: experts that the L mixtures replay, int32, see
            `moe.routing.replay`; None for those that the routers choose.

        Returns:
          The outputs, the cache, and the mixtures' Aux stacked over the
          mixture layers (None if there are none).
        """
        c = self.config
        body = _Period
        if c.remat != 'none':
            body = nn.remat(
                body,
                prevent_cse=False,
                static_argnums=(6, 7),
                policy=REMAT_POLICIES[c.remat],
            )
        if train and c.dropout and self.scans is None:
            seeds = make_seeds(self.make_rng('router'), _positions(x))
            x = dropped(x, c.dropout, seeds)
        written: list[Cache] = []
        layer = 0 if self.scans is None else c.num_layers
        mixtures: list[Any] = []
        forced = RoutesOfScans(routes, len(c.moe_layers))
        scans = singles(c.kinds) if self.apart else c.scans
        for part in scans if self.scans is None else self.scans:
            kind: Any = (
                body
                if self.apart
                else scanned(body, part.repeats, c.remat != 'none')
            )
            layers = kind(c, self.causal, part.kinds, name=part.name)
            old = None
            if cache is not None:
                end = len(written) + len(part.kinds)
                old = cache[len(written) : end]
            own = forced.of(part, self.apart)
            end = layer + len(part.kinds) * part.repeats
            depths = None
            if train and c.stochastic_depth:
                rates = [c.depth_rate(i) for i in range(layer, end)]
                depths = jnp.reshape(jnp.array(rates), (part.repeats, -1))
                depths = depths[0] if self.apart else depths
            layer = end
            more = (segments, own, depths)
            x, (new, found) = layers(
                x, old, mask, token_ids, start, train, record, *more
            )
            written += new or ()
            lead = None if self.apart else ...
            mixtures.append(jax.tree.map(lambda leaf, i=lead: leaf[i], found))
        new_cache = None if cache is None else tuple(written)
        return x, new_cache, in_order(mixtures)


class _Period(nn.Module):
    """One repetition of the pattern of a scan."""

    config: TransformerConfig
    causal: bool
    kinds: tuple[Kind, ...]

    @nn.compact
    def __call__(self, x, cache, *args):
        c = self.config
        *others, routes, depths = args
        new: list[Cache | None] = []
        mixtures: list[Aux] = []
        for i, kind in enumerate(self.kinds):
            moe = None
            if kind.mixture:
                moe = c.moe.build(jnp.dtype(c.dtype), c.down_scale)
            block = Block(c, kind, moe, self.causal, name=f'block_{i}')
            old = None if cache is None else cache[i]
            forced = kind.mixture and routes is not None
            own = routes[len(mixtures)] if forced else None
            depth = None if depths is None else depths[i]
            x, written, aux = block(x, old, *others, routes=own, depth=depth)
            new.append(written)
            mixtures += [] if aux is None else [aux]
        return x, (None if cache is None else tuple(new), tuple(mixtures))


def empty_cache(
    config: TransformerConfig, batch: int, length: int, *, apart: bool = False
) -> tuple[Cache, ...]:
    """Makes an empty cache of keys and values of every layer.

    Of layers with a window it is as long as of others; of latent attention it
    has what `LatentAttention` keeps.

    Args:
      config: config of the stack.
      batch: B, number of sequences.
      length: M, number of positions.
      apart: whether it is for a `Stack` of layers that are apart.

    Returns:
      What `Stack` takes as its cache, zeros in the compute dtype.
    """
    c = config
    if c.latent is None:
        heads, keys, values = c.num_kv_heads, c.head_width, c.head_width
    else:
        heads, keys, values = 1, c.latent.rope_dim, c.latent.kv_rank

    def one(part):
        lead = () if apart else (part.repeats,)
        shape = (*lead, batch, heads, length)
        return Cache(
            *(jnp.zeros((*shape, width), c.dtype) for width in (keys, values))
        )

    scans = singles(c.kinds) if apart else c.scans
    return tuple(one(part) for part in scans for _ in part.kinds)
