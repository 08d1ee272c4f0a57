"""The decoder language model.

B batch, S positions, V vocabulary, D width.
"""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from moe.config import PositiveFloat, PositiveInt
from moe.layers import check_model
from moe.models.mtp import Ahead, MultiToken, MultiTokenConfig, look_ahead
from moe.models.pattern import in_order
from moe.models.transformer import Stack, TransformerConfig
from moe.parallel import split_batch
from moe.parameters import Parameter, parameter
from moe.types import Aux


@dataclasses.dataclass(frozen=True, kw_only=True)
class LMConfig(TransformerConfig):
    """The config of a decoder language model.

    Attributes:
      vocab_size: V, number of token ids; 256 for bytes.
      tie_embeddings: whether the output matrix is the embedding, transposed.
      embedding_scale: factor on the embeddings; None for sqrt(D).
      logit_scale: factor on the logits; None for 1.
      param_dtype: dtype of the parameters, and so of the optimizer's moments;
        products are in `dtype`.
      mtp: multi-token prediction, an auxiliary loss of training that nothing
        else reads; None for none.
    """

    vocab_size: PositiveInt = 256
    tie_embeddings: bool = False
    embedding_scale: PositiveFloat | None = None
    logit_scale: PositiveFloat | None = None
    param_dtype: Literal['float32', 'bfloat16'] = 'float32'
    mtp: MultiTokenConfig | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.moe_every:
            warning = check_model(
                self.moe, causal=True, vocab_size=self.vocab_size
            )
            if warning:
                warnings.warn(warning, stacklevel=2)

    @property
    def depth(self) -> int:
        """Returns the number of depths of multi-token prediction."""
        return self.mtp.depth if self.mtp else 0

    @property
    def training_mixtures(self) -> list[int]:
        """Returns those of all layers, and of each further depth."""
        further = range(self.num_layers, self.num_layers + self.depth)
        return self.moe_layers + (
            list(further) if self.kinds[-1].mixture else []
        )

    @property
    def trained_layers(self) -> int:
        """Returns the number of layers and depths."""
        return self.num_layers + self.depth

    @property
    def trained_outputs(self) -> int:
        """Returns one, and one for each depth."""
        return 1 + self.depth


class LM(nn.Module):
    """A decoder language model: embedding, causal blocks, norm, logits.

    Attributes:
      config: config of the model.
      apart: whether the layers' parameters are apart, see
        `moe.models.pattern.apart`.
    """

    config: LMConfig
    apart: bool = False

    def __call__(
        self,
        tokens: Int[Array, 'B S'],
        *,
        cache: tuple | None = None,
        mask: Bool[Array, 'B S'] | None = None,
        start: int | Int[Array, '*B'] = 0,
        train: bool = False,
        record: bool = False,
        segments: Int[Array, 'B S'] | None = None,
        routes: Int[Array, 'B S L K'] | None = None,
        at: Int[Array, 'B'] | None = None,
    ) -> tuple[Float[Array, 'B T V'], tuple | None, Aux | None]:
        """Predicts, at every position, the token that follows.

        Args:
          tokens: token ids, int32.
          cache: cache of the positions before `start`, see `empty_cache`; None
            unless decoding.
          mask: True for valid tokens, for the mixtures; None if all are.
          start: absolute position of `tokens[:, 0]`, int32; with a cache it may
            be one of each row, [B].
          train: whether this is training.
          record: whether the Aux has the Routing.
          segments: number of each position's document, int32, without a cache:
            logits of a document are those of it alone. None for one.
          routes: experts that the L mixtures replay, int32, -1 for none, see
            `moe.routing.replay`; None for those that the routers choose.
          at: index of the one position of each row whose logits are wanted,
            int32, T = 1; None for all, T = S.

        Returns:
          Logits in float32, the cache, and the Aux stacked over the mixture
          layers (None for a dense model).
        """
        logits, cache, aux = self._forward(
            tokens,
            (),
            cache=cache,
            mask=mask,
            start=start,
            train=train,
            record=record,
            segments=segments,
            routes=routes,
            at=at,
        )
        return logits[0], cache, aux

    def with_further(
        self,
        tokens: Int[Array, 'B S'],
        ahead: Sequence[Ahead],
        **options: Any,
    ) -> tuple[list[Float[Array, 'B S V']], tuple | None, Aux | None]:
        """Predicts further tokens too, by multi-token prediction.

        Args:
          tokens: token ids, int32.
          ahead: what each depth reads, see `moe.models.mtp.look_ahead`.
          **options: those of a call, without a cache.

        Returns:
          As a call does, but with the logits of the token that follows, and
          then of each depth; their mixtures come last in the Aux.
        """
        return self._forward(tokens, ahead, **options)

    @nn.compact
    def _forward(
        self,
        tokens,
        ahead,
        *,
        cache=None,
        mask=None,
        start=0,
        train=False,
        record=False,
        segments=None,
        routes=None,
        at=None,
    ):
        c = self.config
        init = nn.initializers.normal(c.d_model**-0.5)
        table = parameter(
            self,
            'embedding',
            init,
            (c.vocab_size, c.d_model),
            axes=(None, 'embed'),
            decay=True,
            multiplied=c.tie_embeddings,
        )
        # Rows of unit scale into the stack, rows of unit norm out of it.
        with jax.named_scope('embedding'):
            scale = c.embedding_scale or c.d_model**0.5
            x = table[tokens].astype(c.dtype) * scale
        x, cache, aux = Stack(c, causal=True, apart=self.apart, name='stack')(
            x,
            cache=cache,
            mask=mask,
            token_ids=tokens,
            start=start,
            train=train,
            record=record,
            segments=segments,
            routes=routes,
        )
        if at is not None:
            x = jnp.take_along_axis(x, at[:, None, None], axis=1)
        x = split_batch(c.make_norm('norm')(x))
        hidden, found = [x], [aux]
        if self.is_initializing() and c.mtp:
            ahead = look_ahead(tokens, mask, c.depth)
        for k, one in enumerate(ahead, 1):
            x, aux = MultiToken(c, name=f'mtp_{k}')(
                x,
                table[one.token].astype(c.dtype) * scale,
                one,
                segments,
                train,
            )
            hidden, found = [*hidden, x], [*found, aux]
        if c.tie_embeddings:
            head = table.T
        else:
            head = parameter(
                self,
                'head',
                init,
                (c.d_model, c.vocab_size),
                axes=('embed', None),
                decay=True,
            )

        @jax.named_scope('head')
        def logits_of(x):
            logits = x.reshape(-1, c.d_model) @ head.astype(c.dtype)
            logits = logits.astype(jnp.float32)
            if c.logit_scale is not None:
                logits *= c.logit_scale
            return logits.reshape(*x.shape[:2], c.vocab_size)

        aux = in_order([[aux] for aux in found if aux is not None])
        return [logits_of(x) for x in hidden], cache, aux


def attention_flops(
    config: TransformerConfig, length: int, seen: float
) -> float:
    """Returns the FLOPs of the scores and of their means, a token.

    `6 * H * (h + v) * P` in each layer, those of multi-token prediction too:
    for each query the products with keys h wide and values v wide at the P
    positions it sees, `seen * S` or in a window of w `w - w^2 / 2S`, and twice
    that in the backward pass. Source: PaLM, arXiv 2204.02311, appendix B.

    Args:
      config: config of the transformer.
      length: S, positions of an example.
      seen: mean share of them that a query attends to.
    """
    width, positions = config.head_width + config.value_width, 0.0
    further = config.trained_layers - config.num_layers
    for window in (*config.windows, *further * config.windows[-1:]):
        if window is None or window >= length:
            positions += seen * length
        else:
            positions += window - window**2 / (2 * length)
    return 6.0 * config.num_heads * width * positions


def active_parameters(
    config: TransformerConfig, parameters: Any
) -> tuple[int, int]:
    """Counts parameters, and those active in one token's forward pass.

    Args:
      config: config of the transformer.
      parameters: its declared parameters, a tree of `Parameter`.

    Returns:
      Total and active. Embeddings are active only as the output head, and
      multi-token prediction is not; a token uses K of the E experts.
    """
    total = active = 0
    for path, p in jax.tree_util.tree_leaves_with_path(parameters):
        total += p.size
        if not is_further(path):
            active += active_size(config, p)
    return total, active


def active_size(config: TransformerConfig, parameter: Parameter) -> int:
    """Returns how many numbers of a parameter a token is multiplied with.

    Args:
      config: config of the transformer.
      parameter: the declared parameter.
    """
    p = parameter
    if 'expert' in p.axes:
        share = p.size / config.moe.num_experts
        return round(share * config.moe.experts_per_token)
    return p.size if p.multiplied else 0


def is_further(path: tuple) -> bool:
    """Whether a parameter is of multi-token prediction.

    Args:
      path: keys of the parameter in those of its model.
    """
    return path[0].key.startswith('mtp_')
