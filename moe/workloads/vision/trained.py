"""A trained vision transformer, opened by `moe.load`.

B images, H rows and W columns of pixels, C channels, S patches, E experts.
"""

import functools
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from moe.workloads.trained import LayerRouting, TrainedRun, by_layer
from moe.workloads.vision.model import ViT
from moe.workloads.vision.workload import VisionConfig

Images = Float[np.ndarray, 'B H W C']


class VisionRun(TrainedRun):
    """A trained vision transformer; see `TrainedRun`."""

    config: VisionConfig
    model: ViT

    def __init__(self, config, workdir, step=None):
        super().__init__(config, workdir, step)
        self.model = ViT(config.model)

    def logits(self, inputs: Images) -> Float[np.ndarray, 'B classes']:
        """Predicts the class of each image.

        Args:
          inputs: pixels, standardised as the training images were.

        Returns:
          Logits in float32.
        """
        out = _apply(self.model, self.variables, inputs, record=False)
        return np.asarray(out[0])

    def routing(self, inputs: Images) -> list[LayerRouting]:
        """Finds which experts each patch goes to, layer by layer.

        Args:
          inputs: pixels, see `logits`.

        Returns:
          One entry a mixture layer, its arrays [B, S, E]; none for soft
          mixtures, which assign no patch.
        """
        _, aux = _apply(self.model, self.variables, inputs, record=True)
        shape = (len(inputs), self.config.model.num_tokens)
        layers = self.config.model.moe_layers
        return by_layer(aux and aux.routing, layers, shape)


@functools.partial(jax.jit, static_argnames=('model', 'record'))
def _apply(model: ViT, variables: Any, images: Any, record: bool):
    return model.apply(variables, images, record=record)
