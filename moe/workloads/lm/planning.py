"""The planning of a language model."""

import jax
import numpy as np

from moe.workloads.lm.data.packing import Packed
from moe.workloads.lm.workload import LanguageConfig
from moe.workloads.planning import TransformerPlanning


class LanguageModelPlanning(TransformerPlanning):
    """A planned run of a language model; see `Planning`."""

    seen = 0.5
    config: LanguageConfig

    def _batch_shapes(self):
        data = self.config.data
        shape = (data.batch_size, data.seq_len + 1)
        # The data have token ids in the smallest type that holds them; where
        # the data alone tell how many there are, the model has as many.
        known = data.source.vocab_size
        known = known if known > 1 else self.config.model.vocab_size
        dtype = np.min_scalar_type(known - 1)
        tokens = jax.ShapeDtypeStruct(shape, dtype)
        if data.packing == 'stream':
            return tokens
        return Packed(tokens, jax.ShapeDtypeStruct(shape, np.int32))
