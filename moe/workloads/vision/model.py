"""The vision transformer, an image classifier.

B batch, H rows and W columns of pixels, C channels, S patches (and the
class token, if there is one), D width.
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from moe.config import ConfigError, PositiveFloat, PositiveInt
from moe.layers import check_model
from moe.models.rope import Rope
from moe.models.transformer import Stack, TransformerConfig
from moe.parameters import parameter
from moe.types import Aux


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig(TransformerConfig):
    """The config of a vision transformer.

    Attributes:
      image_size: H and W, pixels.
      channels: C.
      patch_size: rows and columns of a patch, pixels.
      num_classes: number of classes of the labels.
      pool: what the head reads: the mean over all patches, or the first token,
        the class token, which is no patch.
      head_hidden: width of a layer with tanh before the head, ViT's pre-logits;
        None for none.
      position_std: standard deviation of the position embeddings before the
        first step; that of an embedded patch is about 1.
      rope: None, as positions are learned; see `TransformerConfig`.
    """

    image_size: PositiveInt = 8
    channels: PositiveInt = 1
    patch_size: PositiveInt = 2
    num_classes: PositiveInt = 10
    pool: Literal['mean', 'token'] = 'mean'
    head_hidden: PositiveInt | None = None
    position_std: PositiveFloat = 0.02
    rope: Rope | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.sliding_window is not None:
            allowed = 'None: patches see those after them too'
            raise ConfigError('sliding_window', self.sliding_window, allowed)
        if self.image_size % self.patch_size:
            allowed = f'a divisor of image_size ({self.image_size})'
            raise ConfigError('patch_size', self.patch_size, allowed)
        if self.moe_every:
            check_model(self.moe, causal=False, vocab_size=None)

    @property
    def num_patches(self) -> int:
        """Returns the number of patches of an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_tokens(self) -> int:
        """Returns S, the patches of an image and the class token."""
        return self.num_patches + (self.pool == 'token')


class ViT(nn.Module):
    """A vision transformer: patches, blocks, norm, mean over patches, logits.

    Or, with `pool = 'token'`, a class token before the patches, which the head
    reads. A class token and a bias of the patches are in the embeddings of
    their positions, to which ViT adds them, and have no parameter of their own.
    Sources: ViT, arXiv 2010.11929; with mixtures V-MoE, arXiv 2106.05974.

    Attributes:
      config: description of the model.
    """

    config: ViTConfig

    @nn.compact
    def __call__(
        self,
        images: Float[Array, 'B H W C'],
        *,
        mask: Bool[Array, 'B'] | None = None,
        train: bool = False,
        record: bool = False,
        head: bool = True,
    ) -> tuple[Float[Array, 'B outputs'], Aux | None]:
        """Predicts the class of each image.

        Args:
          images: standardised pixels, float.
          mask: True for valid images, for the mixtures; None if all are.
          train: whether this is training.
          record: whether the Aux has the Routing.
          head: whether to apply the head; without, its input is returned.

        Returns:
          Logits in float32, or the representation that the head reads, and the
          Aux stacked over the mixture layers (None for a dense model).

        Raises:
          ValueError: if the images are not of the config's size and channels.
        """
        c = self.config
        shape = (c.image_size, c.image_size, c.channels)
        if images.shape[1:] != shape:
            raise ValueError(
                f'ViT: images of shape {images.shape[1:]}, not {shape}'
            )
        rows = rearrange(
            images,
            'b (h p) (w q) c -> (b h w) (p q c)',
            p=c.patch_size,
            q=c.patch_size,
        )
        fan_in = nn.initializers.variance_scaling(
            1.0, 'fan_in', 'truncated_normal'
        )
        width = rows.shape[-1]
        kernel = parameter(
            self, 'patches', fan_in, (width, c.d_model), decay=True
        )
        position = parameter(
            self,
            'position_embedding',
            nn.initializers.normal(c.position_std),
            (c.num_tokens, c.d_model),
            decay=True,
            multiplied=False,
            grid=True,
        )
        x = rows.astype(c.dtype) @ kernel.astype(c.dtype)
        x = x.reshape(-1, c.num_patches, c.d_model)
        x = jnp.pad(x, ((0, 0), (c.num_tokens - c.num_patches, 0), (0, 0)))
        x = x + position.astype(c.dtype)
        if mask is not None:
            mask = jnp.broadcast_to(mask[:, None], x.shape[:2])
        x, _, aux = Stack(c, causal=False, name='stack')(
            x, mask=mask, train=train, record=record
        )
        x = c.make_norm('norm')(x)
        x = x.astype(jnp.float32)
        pooled = x[:, 0] if c.pool == 'token' else jnp.mean(x, axis=1)
        zeros = nn.initializers.zeros_init()
        if c.head_hidden:
            inner = parameter(
                self,
                'head_hidden',
                fan_in,
                (c.d_model, c.head_hidden),
                axes=('embed', None),
                decay=True,
            )
            bias = parameter(
                self, 'head_hidden_bias', zeros, (c.head_hidden,), decay=False
            )
            pooled = jnp.tanh(pooled @ inner + bias)
        kernel = parameter(
            self,
            'head',
            zeros,
            (pooled.shape[-1], c.num_classes),
            axes=('embed', None),
            decay=True,
        )
        bias = parameter(
            self, 'head_bias', zeros, (c.num_classes,), decay=False
        )
        return (pooled @ kernel + bias if head else pooled), aux
