"""The planning of a language model."""

import jax
import numpy as np

from moe.workloads.lm.workload import LanguageConfig
from moe.workloads.planning import TransformerPlanning


class LanguageModelPlanning(TransformerPlanning):
    """A planned run of a language model; see `Planning`."""

    seen = 0.5
    config: LanguageConfig

    def _batch_shapes(self):
        data = self.config.data
        shape = (data.batch_size, data.seq_len + 1)
        # The data have token ids in the smallest type that holds them.
        dtype = np.min_scalar_type(data.source.vocab_size - 1)
        return jax.ShapeDtypeStruct(shape, dtype)
