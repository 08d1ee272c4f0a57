"""The planning of a vision transformer."""

import jax
import jax.numpy as jnp

from moe.workloads.planning import TransformerPlanning
from moe.workloads.vision.workload import VisionConfig


class VisionPlanning(TransformerPlanning):
    """A planned run of a vision transformer; see `Planning`."""

    seen = 1.0
    config: VisionConfig

    def _batch_shapes(self):
        size, model = self.config.data.batch_size, self.config.model
        image = (size, model.image_size, model.image_size, model.channels)
        shapes = {
            'image': jax.ShapeDtypeStruct(image, jnp.float32),
            'label': jax.ShapeDtypeStruct((size,), jnp.int32),
        }
        if self.config.data.augment.mixes:
            shapes['other'] = shapes['label']
            shapes['weight'] = jax.ShapeDtypeStruct((size,), jnp.float32)
        return shapes
