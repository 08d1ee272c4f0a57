"""Pre-norm transformer blocks, any of which may have a mixture.

B batch, S positions, D width.
"""

import dataclasses
import functools
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from moe.config import (
    ConfigError,
    NaturalInt,
    OneOf,
    PositiveFloat,
    PositiveInt,
)
from moe.experts import MLP, make_experts
from moe.experts.base import EXPERTS, SUPPLIED
from moe.layers import MoEConfig
from moe.models.attention import Cache, attention_of, cache_of, check
from moe.models.norms import NORMS, Norm
from moe.models.pattern import Kind, Place, Scan, cut, in_order, places
from moe.models.rope import Rope
from moe.ops.attention import ATTENTION_KERNELS, xla
from moe.ops.attention import SUPPLIED as KERNEL_SUPPLIED
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


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """The config of a stack of transformer blocks.

    Attributes:
      d_model: D, width of the residual stream.
      num_layers: number of blocks.
      num_heads: number of query heads.
      num_kv_heads: number of key and value heads; fewer than query heads is
        grouped-query attention.
      head_dim: h, width of each head; None for `d_model / num_heads`.
      qk_norm: RMSNorm of queries and keys before they are rotated: none, of
        each head, or over the whole width of all heads.
      clip_qkv: queries, keys and values are clipped to plus and minus it,
        after the norm; None leaves them as they are.
      attention_bias: biases of the projections of attention: none, of queries,
        keys and values, or all (of the output too).
      attention_scale: factor on the scores before the softmax; None for
        `1 / sqrt(h)`.
      attention_sinks: whether each head has a learned score in its softmax that
        has no value, as in gpt-oss.
      sliding_window: number of positions that a position sees, itself included;
        None for all before it.
      window_layers: layers with that window, counted from 0; None for all.
      dense: the feed-forward network of blocks without a mixture.
      norm: RMSNorm, or LayerNorm with a bias.
      norm_epsilon: epsilon of the norms.
      rope: rotary positions; None for no rotation.
      attention: the attention kernel: xla, on GPUs also cudnn, on TPUs splash.
      moe_every: every n-th block has a mixture; 0 for none.
      dense_layers: blocks without a mixture beside those, counted from 0, such
        as (0, 1, 2) where the first three are dense.
      moe: the mixture layers.
      residual_scale: factor on what attention and feed-forwards add to the
        residual stream; None for 1.
      dtype: dtype of the computation; parameters are float32.
      remat: what the backward pass recomputes, from least to most: none, dots
        (all but unbatched products), hidden (all but the outputs of attention
        and experts and the hidden products of feed-forwards), full.
    """

    d_model: PositiveInt = 128
    num_layers: PositiveInt = 4
    num_heads: PositiveInt = 2
    num_kv_heads: PositiveInt = 2
    head_dim: PositiveInt | None = None
    qk_norm: Literal['none', 'head', 'width'] = 'none'
    clip_qkv: PositiveFloat | None = None
    attention_bias: Literal['none', 'qkv', 'all'] = 'none'
    attention_scale: PositiveFloat | None = None
    attention_sinks: bool = False
    sliding_window: PositiveInt | None = None
    window_layers: tuple[NaturalInt, ...] | None = None
    dense: Annotated[Any, OneOf(EXPERTS, SUPPLIED)] = functools.partial(
        MLP, hidden=256
    )
    norm: Norm = 'rms'
    norm_epsilon: PositiveFloat = 1e-6
    rope: Rope | None = dataclasses.field(default_factory=Rope)
    attention: Annotated[Any, OneOf(ATTENTION_KERNELS, KERNEL_SUPPLIED)] = xla
    moe_every: NaturalInt = 1
    dense_layers: tuple[NaturalInt, ...] = ()
    moe: MoEConfig = dataclasses.field(default_factory=MoEConfig)
    residual_scale: PositiveFloat | None = None
    dtype: Literal['float32', 'bfloat16'] = 'float32'
    remat: Literal['none', 'dots', 'hidden', 'full'] = 'none'

    def __post_init__(self):
        check(self)
        if self.moe_every > self.num_layers:
            allowed = f'at most num_layers ({self.num_layers}); 0 for none'
            raise ConfigError('moe_every', self.moe_every, allowed)
        self._check_dense_layers()

    def _check_dense_layers(self):
        """Refuses layers that are none, and those of a dense stack."""
        given = self.dense_layers
        if not given:
            return
        allowed = None
        if not self.moe_every:
            allowed = '(), as moe_every = 0 has no mixtures'
        elif max(given) >= self.num_layers or len({*given}) < len(given):
            allowed = f'layers below num_layers ({self.num_layers}), each once'
        elif not self.moe_layers:
            allowed = 'fewer layers; moe_every = 0 is a stack without mixtures'
        if allowed:
            raise ConfigError('dense_layers', given, allowed)

    def make_norm(self, name: str) -> nn.Module:
        """Makes a norm of the residual stream, of the calling module.

        Args:
          name: name of the norm.
        """
        return NORMS[self.norm](self.norm_epsilon, name=name)

    @property
    def head_width(self) -> int:
        """Returns h, the width of each head."""
        return self.head_dim or self.d_model // self.num_heads

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Returns the kind of each layer."""
        mixtures = self.moe_layers
        windows = self.windows
        return tuple(
            Kind(i in mixtures, windows[i] is not None)
            for i in range(self.num_layers)
        )

    @property
    def windows(self) -> tuple[int | None, ...]:
        """Returns the window of each layer, None for all positions."""
        layers = self.window_layers
        return tuple(
            self.sliding_window if layers is None or i in layers else None
            for i in range(self.num_layers)
        )

    @property
    def scans(self) -> tuple[Scan, ...]:
        """Returns the scans that the layers are cut into, see `cut`."""
        return cut(self.kinds, self.moe_every or 1)

    @property
    def places(self) -> list[Place]:
        """Returns where in the stack the parameters of each layer are."""
        return places(self.scans)

    @property
    def training_mixtures(self) -> list[int]:
        """Returns the numbers of the layers whose Aux a step of training has.

        Those of `moe_layers`, and of mixtures that only training has.
        """
        return self.moe_layers

    @property
    def trained_layers(self) -> int:
        """Returns the number of blocks that a token passes in training."""
        return self.num_layers

    @property
    def trained_outputs(self) -> int:
        """Returns how often the head is applied to a position in training."""
        return 1

    @property
    def down_scale(self) -> float:
        """Returns the factor on initial output matrices, two in each block."""
        return (2 * self.num_layers) ** -0.5

    @property
    def moe_layers(self) -> list[int]:
        """Returns the indices of the mixture layers."""
        if not self.moe_every:
            return []
        found = range(self.moe_every - 1, self.num_layers, self.moe_every)
        return [i for i in found if i not in self.dense_layers]


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
    ) -> tuple[Float[Array, 'B S D'], Cache | None, Aux | None]:
        """Returns the outputs, the cache, and the mixture's Aux if it is one.

        Args:
          x: inputs, float.
          cache: this layer's keys and values, if decoding.
          mask: True for valid tokens, for the mixture; None if all are.
          token_ids: token ids for routers that read them, int32.
          start: absolute position of `x[:, 0]`, int32; with a cache it may be
            one of each row, [B].
          train: whether this is training.
          record: whether the Aux has the Routing.
          segments: number of each position's document, int32; None for one.
        """
        c = self.config
        dtype, scale = jnp.dtype(c.dtype), c.down_scale
        x = split_batch(x)
        h, cache = attention_of(c, self.kind, self.causal, name='attention')(
            c.make_norm('attention_norm')(x),
            cache,
            start,
            segments,
        )
        x = split_batch(self._added(x, h))
        h = split_batch(c.make_norm('mlp_norm')(x))
        if self.moe:
            y, aux = self.moe(
                h, mask=mask, token_ids=token_ids, train=train, record=record
            )
            return self._added(x, y), cache, aux
        dense = make_experts(
            c.dense, None, dtype=dtype, down_scale=scale, name='mlp'
        )
        return self._added(x, dense(h)), cache, None

    def _added(self, x, y):
        scale = self.config.residual_scale
        return x + y if scale is None else x + y * scale


class Stack(nn.Module):
    """All blocks, as one or several scans over repetitions of a pattern.

    Parameters are stacked: the first axis of each is the repetition. See
    `TransformerConfig.places` for where those of a layer are.

    Attributes:
      config: config of the blocks.
      causal: whether a position sees only itself and those before it.
      scans: the scans; None for those of all layers of the config.
    """

    config: TransformerConfig
    causal: bool
    scans: tuple[Scan, ...] | None = None

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
    ) -> tuple[Float[Array, 'B S D'], tuple | None, Aux | None]:
        """Runs all blocks.

        Args:
          x: inputs, float.
          cache: one Cache for each layer of the pattern of each scan, each
            stacked over repetitions (see `empty_cache`).
          mask: True for valid tokens, for the mixtures; None if all are.
          token_ids: token ids for routers that read them, int32.
          start: absolute position of `x[:, 0]`, int32; with a cache it may be
            one of each row, [B].
          train: whether this is training.
          record: whether the Aux has the Routing.
          segments: number of each position's document, int32, which sees no
            other; None for one.

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
        written: list[Cache] = []
        mixtures = []
        for part in c.scans if self.scans is None else self.scans:
            scan = nn.scan(
                body,
                variable_axes={'params': 0, 'router_state': 0},
                split_rngs={'params': True, 'router': True},
                in_axes=(0, *6 * (nn.broadcast,)),
                out_axes=0,
                length=part.repeats,
            )
            layers = scan(c, self.causal, part.kinds, name=part.name)
            old = None
            if cache is not None:
                end = len(written) + len(part.kinds)
                old = cache[len(written) : end]
            x, (new, found) = layers(
                x, old, mask, token_ids, start, train, record, segments
            )
            written += new or ()
            mixtures.append(found)
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
        new, mixtures = [], []
        for i, kind in enumerate(self.kinds):
            moe = None
            if kind.mixture:
                moe = c.moe.build(jnp.dtype(c.dtype), c.down_scale)
            block = Block(c, kind, moe, self.causal, name=f'block_{i}')
            old = None if cache is None else cache[i]
            x, written, aux = block(x, old, *args)
            new.append(written)
            mixtures += [] if aux is None else [aux]
        return x, (None if cache is None else tuple(new), tuple(mixtures))


def empty_cache(
    config: TransformerConfig, batch: int, length: int
) -> tuple[Cache, ...]:
    """Makes an empty cache of keys and values of every layer.

    Args:
      config: config of the stack.
      batch: B, number of sequences.
      length: M, number of positions.

    Returns:
      What `Stack` takes as its cache, zeros in the compute dtype.
    """
    return tuple(
        cache_of(config, part.repeats, batch, length)
        for part in config.scans
        for _ in part.kinds
    )
