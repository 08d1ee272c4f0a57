"""Multi-token prediction: further tokens, predicted one after another.

B batch, S positions, D width.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from moe.config import PositiveFloat, PositiveInt
from moe.models.pattern import Scan
from moe.models.transformer import Stack, TransformerConfig
from moe.parallel import split_batch
from moe.parameters import parameter
from moe.types import Aux


@dataclasses.dataclass(frozen=True)
class MultiTokenConfig:
    """The config of multi-token prediction, an auxiliary loss of training.

    Source: DeepSeek-V3, arXiv 2412.19437, section 2.2.

    Attributes:
      depth: how many further tokens each position predicts.
      weight: weight of the mean of the depths' losses in the objective.
    """

    depth: PositiveInt = 1
    weight: PositiveFloat = 0.3

    @property
    def coefficients(self) -> dict[str, float]:
        """Returns the coefficient of each depth's loss by name."""
        share = self.weight / self.depth
        return {f'mtp_{k}': share for k in range(1, self.depth + 1)}


class Ahead(NamedTuple):
    """What one depth reads and predicts at each position.

    Attributes:
      token: the last token that is known, int32.
      target: the token after it, int32.
      mask: whether both are of the position's own document.
    """

    token: Int[Array, 'B S']
    target: Int[Array, 'B S']
    mask: Bool[Array, 'B S']


def look_ahead(
    targets: Int[Array, 'B S'], mask: Bool[Array, 'B S'] | None, depth: int
) -> list[Ahead]:
    """Returns what each depth reads and predicts.

    At position i and depth k these are the tokens i + k and i + k + 1. The
    last k positions of a sequence, or of a document, have none.

    Args:
      targets: the token after each position.
      mask: True for targets that follow from their position; None if all do.
      depth: number of depths.
    """
    if not depth:
        return []
    mask = jnp.ones(targets.shape, bool) if mask is None else mask
    shift = lambda x, k: jnp.pad(x[:, k:], ((0, 0), (0, k)))
    found, valid = [], mask
    for k in range(1, depth + 1):
        valid = valid & shift(mask, k)
        ahead = shift(targets, k - 1), shift(targets, k), valid
        found.append(Ahead(*ahead))
    return found


class MultiToken(nn.Module):
    """One depth: a block over what is known of the position and the next token.

    `h' = block(W [norm(h); norm(e)])`, of which the model's head makes logits
    after another norm. The block is of the kind of the model's last layer.

    Attributes:
      config: config of the model.
    """

    config: TransformerConfig

    @nn.compact
    def __call__(
        self,
        hidden: Float[Array, 'B S D'],
        embedding: Float[Array, 'B S D'],
        ahead: Ahead,
        segments: Int[Array, 'B S'] | None,
        train: bool,
    ) -> tuple[Float[Array, 'B S D'], Aux | None]:
        """Returns what the head reads at this depth, and the mixture's Aux.

        Args:
          hidden: what the head reads at the depth before.
          embedding: embeddings of `ahead.token`.
          ahead: what the depth reads.
          segments: number of each position's document; None for one.
          train: whether this is training.
        """
        c = self.config
        normed = [
            c.make_norm('hidden_norm')(hidden),
            c.make_norm('embedding_norm')(split_batch(embedding)),
        ]
        init = nn.initializers.variance_scaling(
            1.0, 'fan_in', 'truncated_normal'
        )
        w = parameter(
            self,
            'projection',
            init,
            (2 * c.d_model, c.d_model),
            axes=('embed', None),
            decay=True,
            matrix=(1, 1),
        )
        x = jnp.concatenate(normed, axis=-1)
        rows = x.reshape(-1, 2 * c.d_model) @ w.astype(c.dtype)
        last = (Scan('layers', c.kinds[-1:], 1),)
        x, _, aux = Stack(c, causal=True, scans=last, name='stack')(
            split_batch(rows.reshape(hidden.shape)),
            mask=ahead.mask,
            token_ids=ahead.token,
            train=train,
            segments=segments,
        )
        return split_batch(c.make_norm('norm')(x)), aux
