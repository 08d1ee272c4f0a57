"""The decoder language model.

B batch, S positions, V vocabulary, D width.
"""

import dataclasses
import warnings
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from moe.config import PositiveFloat, PositiveInt
from moe.layers import check_model
from moe.models.transformer import Stack, TransformerConfig
from moe.parallel import split_batch
from moe.parameters import parameter
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
    """

    vocab_size: PositiveInt = 256
    tie_embeddings: bool = False
    embedding_scale: PositiveFloat | None = None
    logit_scale: PositiveFloat | None = None
    param_dtype: Literal['float32', 'bfloat16'] = 'float32'

    def __post_init__(self):
        super().__post_init__()
        if self.moe_every:
            warning = check_model(
                self.moe, causal=True, vocab_size=self.vocab_size
            )
            if warning:
                warnings.warn(warning, stacklevel=2)


class LM(nn.Module):
    """A decoder language model: embedding, causal blocks, norm, logits.

    Attributes:
      config: config of the model.
    """

    config: LMConfig

    @nn.compact
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
    ) -> tuple[Float[Array, 'B S V'], tuple | None, Aux | None]:
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

        Returns:
          Logits in float32, the cache, and the Aux stacked over the mixture
          layers (None for a dense model).
        """
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
        x, cache, aux = Stack(c, causal=True, name='stack')(
            x,
            cache=cache,
            mask=mask,
            token_ids=tokens,
            start=start,
            train=train,
            record=record,
            segments=segments,
        )
        x = split_batch(c.make_norm('norm')(x))
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
        with jax.named_scope('head'):
            logits = x.reshape(-1, c.d_model) @ head.astype(c.dtype)
            logits = logits.astype(jnp.float32)
            if c.logit_scale is not None:
                logits *= c.logit_scale
        return logits.reshape(*tokens.shape, c.vocab_size), cache, aux


def attention_flops(
    config: TransformerConfig, length: int, seen: float
) -> float:
    """Returns the FLOPs of the scores and of their means, a token.

    `6 * H * (h + v) * seen * S` in each layer: for each query the products with
    keys h wide and values v wide at the positions it sees, and twice that in
    the backward pass. Source: PaLM, arXiv 2204.02311, appendix B.

    Args:
      config: config of the transformer.
      length: S, positions of an example.
      seen: mean share of them that a query attends to.
    """
    width = 2 * config.head_width
    return 6.0 * config.num_layers * config.num_heads * width * seen * length


def active_parameters(
    config: TransformerConfig, parameters: Any
) -> tuple[int, int]:
    """Counts parameters, and those active in one token's forward pass.

    Args:
      config: config of the transformer.
      parameters: its declared parameters, a tree of `Parameter`.

    Returns:
      Total and active. Embeddings are active only as the output head; a token
      uses K of the E experts.
    """
    total = active = 0
    for p in jax.tree.leaves(parameters):
        total += p.size
        if 'expert' in p.axes:
            share = p.size / config.moe.num_experts
            active += round(share * config.moe.experts_per_token)
        elif p.multiplied:
            active += p.size
    return total, active
