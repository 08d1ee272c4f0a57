"""The state of a small run on images, without compiling its init."""

import jax
import numpy as np

from moe import training
from moe.workloads.vision.model import ViT
from tests import tiny

# One mixture and no other block, which are soon compiled.
ONE_BLOCK = {'model.num_layers': 1, 'model.moe_every': 1}


def state(config):
    """A train state of random parameters and zero moments, in NumPy."""
    shapes = jax.eval_shape(lambda: training.init_state(config))
    zeros = jax.tree.map(
        lambda s: np.zeros(s.shape, s.dtype), shapes._replace(key=None)
    )
    m = config.model
    image = np.zeros((1, m.image_size, m.image_size, m.channels), np.float32)
    return zeros._replace(
        params=tiny.parameters(ViT(m).init, image),
        key=jax.random.key(config.seed),
    )
