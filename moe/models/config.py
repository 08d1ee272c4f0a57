"""The config of a stack of transformer blocks."""

import dataclasses
import functools
from typing import Annotated, Any, Literal

import flax.linen as nn

from moe.config import (
    ConfigError,
    NaturalInt,
    OneOf,
    PositiveFloat,
    PositiveInt,
)
from moe.experts import MLP
from moe.experts.base import EXPERTS, SUPPLIED
from moe.layers import MoEConfig
from moe.models.latent import Latent
from moe.models.norms import NORMS, Norm
from moe.models.pattern import Kind, Place, Scan, cut, places
from moe.models.rope import Rope
from moe.ops.attention import ATTENTION_KERNELS, takes, xla
from moe.ops.attention import SUPPLIED as KERNEL_SUPPLIED
from moe.ops.dropout import Rate


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
      latent: multi-head latent attention, whose keys and values are made of one
        narrow vector a position, instead of the above; None for none.
      dense: the feed-forward network of blocks without a mixture.
      norm: RMSNorm, or LayerNorm with a bias.
      norm_epsilon: epsilon of the norms.
      rope: rotary positions; None for no rotation.
      attention: the attention kernel: xla, on GPUs also cudnn, on TPUs splash.
      moe_every: every n-th block has a mixture; 0 for none.
      dense_layers: blocks without a mixture beside those, counted from 0, such
        as (0, 1, 2) where the first three are dense.
      moe_last: of the blocks that have a mixture by these, the last n alone
        have one, as in V-MoE's Last-n; None for all.
      moe: the mixture layers.
      dropout: share of the stack's inputs and of attention's outputs that are
        dropped in training; feed-forwards have their own, `dense.dropout` and
        `moe.experts.dropout`.
      stochastic_depth: share of the examples that lose the attention, and of
        those that lose the feed-forward, of the last block in training; from 0
        in the first block it grows linearly.
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
    latent: Latent | None = None
    dense: Annotated[Any, OneOf(EXPERTS, SUPPLIED)] = functools.partial(
        MLP, hidden=256
    )
    norm: Norm = 'rms'
    norm_epsilon: PositiveFloat = 1e-6
    rope: Rope | None = dataclasses.field(default_factory=Rope)
    attention: Annotated[Any, OneOf(ATTENTION_KERNELS, KERNEL_SUPPLIED)] = xla
    moe_every: NaturalInt = 1
    dense_layers: tuple[NaturalInt, ...] = ()
    moe_last: PositiveInt | None = None
    moe: MoEConfig = dataclasses.field(default_factory=MoEConfig)
    dropout: Rate = 0.0
    stochastic_depth: Rate = 0.0
    residual_scale: PositiveFloat | None = None
    dtype: Literal['float32', 'bfloat16'] = 'float32'
    remat: Literal['none', 'dots', 'hidden', 'full'] = 'none'

    def __post_init__(self):
        _check_attention(self)
        if self.moe_every > self.num_layers:
            allowed = f'at most num_layers ({self.num_layers}); 0 for none'
            raise ConfigError('moe_every', self.moe_every, allowed)
        self._check_dense_layers()
        self._check_moe_last()

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

    def _check_moe_last(self):
        """Refuses more last mixtures than there are."""
        last, most = self.moe_last, len(self._candidates)
        if last is not None and last > most:
            allowed = f'at most {most}, the mixtures by moe_every'
            if not self.moe_every:
                allowed = 'None, as moe_every = 0 has no mixtures'
            raise ConfigError('moe_last', last, allowed)

    def depth_rate(self, layer: int) -> float:
        """Returns the share of examples that lose a branch of a layer.

        `stochastic_depth * layer / (L - 1)`, at most that of the last. Source:
        arXiv 1603.09382; with this rule, ViTs of arXiv 2106.10270.

        Args:
          layer: its number, counted from 0.
        """
        last = max(self.num_layers - 1, 1)
        return self.stochastic_depth * min(layer / last, 1.0)

    def make_norm(self, name: str) -> nn.Module:
        """Makes a norm of the residual stream, of the calling module.

        Args:
          name: name of the norm.
        """
        return NORMS[self.norm](self.norm_epsilon, name=name)

    @property
    def head_width(self) -> int:
        """Returns h, the width of each head's queries and keys."""
        if self.latent is not None:
            return self.latent.nope_dim + self.latent.rope_dim
        return self.head_dim or self.d_model // self.num_heads

    @property
    def value_width(self) -> int:
        """Returns the width of each head's values."""
        return self.latent.value_dim if self.latent else self.head_width

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
        return self._candidates[-(self.moe_last or 0) :]

    @property
    def _candidates(self) -> list[int]:
        """Returns the layers that are mixtures without `moe_last`."""
        if not self.moe_every:
            return []
        found = range(self.moe_every - 1, self.num_layers, self.moe_every)
        return [i for i in found if i not in self.dense_layers]


def _check_attention(config: TransformerConfig) -> None:
    """Refuses options of attention that do not fit each other.

    Args:
      config: a `TransformerConfig`.

    Raises:
      ConfigError: for these, and for one that the kernel does not have.
    """
    c = config
    if c.latent is not None:
        _check_latent(c)
    elif c.head_dim is None and c.d_model % (2 * c.num_heads):
        allowed = f'a multiple of 2 * num_heads ({2 * c.num_heads})'
        raise ConfigError('d_model', c.d_model, allowed)
    if c.num_heads % c.num_kv_heads:
        allowed = f'a divisor of num_heads ({c.num_heads})'
        raise ConfigError('num_kv_heads', c.num_kv_heads, allowed)
    if c.rope is not None:
        c.rope.check(c.latent.rope_dim if c.latent else c.head_width)
    layers = c.window_layers
    if layers is not None:
        if c.sliding_window is None:
            raise ConfigError('window_layers', layers, 'None without a window')
        if max(layers, default=0) >= c.num_layers or len({*layers}) < len(
            layers
        ):
            allowed = f'layers below num_layers ({c.num_layers}), each once'
            raise ConfigError('window_layers', layers, allowed)
    for field, option in (
        ('attention_scale', 'scale'),
        ('sliding_window', 'window'),
        ('attention_sinks', 'sinks'),
    ):
        value = getattr(c, field)
        if value and not takes(c.attention, option):
            name = ATTENTION_KERNELS.name_of(c.attention)
            allowed = f'left out: the attention kernel {name!r} has none'
            raise ConfigError(field, value, allowed)


def _check_latent(config: TransformerConfig) -> None:
    """Refuses what latent attention does not have."""
    defaults = {
        'head_dim': None,
        'qk_norm': 'none',
        'clip_qkv': None,
        'attention_bias': 'none',
        'attention_sinks': False,
        'sliding_window': None,
    }
    for field, default in defaults.items():
        value = getattr(config, field)
        if value != default:
            allowed = f'{default!r} with latent attention, which has none'
            raise ConfigError(field, value, allowed)
    if config.num_kv_heads != config.num_heads:
        allowed = f'num_heads ({config.num_heads}) with latent attention'
        raise ConfigError('num_kv_heads', config.num_kv_heads, allowed)
