"""A trained language model, opened by `moe.load`.

B sequences, S positions, V vocabulary, E experts.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from moe.config import ConfigError
from moe.workloads.lm.data import Source
from moe.workloads.lm.data.kept import with_kept_tokenizer
from moe.workloads.lm.model import LM
from moe.workloads.lm.workload import LanguageConfig, sample
from moe.workloads.trained import LayerRouting, TrainedRun, by_layer

Inputs = str | Int[np.ndarray, 'B S'] | Int[np.ndarray, 'S']


class LanguageModelRun(TrainedRun):
    """A trained language model; see `TrainedRun`."""

    config: LanguageConfig
    model: LM

    def __init__(self, config, workdir, step=None):
        source = with_kept_tokenizer(config.data.source, workdir)
        data = dataclasses.replace(config.data, source=source)
        config = dataclasses.replace(config, data=data)
        super().__init__(config, workdir, step)
        self.model = LM(config.model)

    def logits(self, inputs: Inputs) -> Float[np.ndarray, 'B S V']:
        """Predicts the token after each position.

        Args:
          inputs: a text, or token ids [S] or [B, S].

        Returns:
          Logits in float32; B is 1 for a text.
        """
        out = _apply(
            self.model,
            self.variables,
            _ids(self.config.data.source, inputs),
            record=False,
        )
        return np.asarray(out[0])

    def routing(self, inputs: Inputs) -> list[LayerRouting]:
        """Finds which experts each token goes to, layer by layer.

        Args:
          inputs: a text, or token ids [S] or [B, S].

        Returns:
          One entry a mixture layer, its arrays [B, S, E].
        """
        ids = _ids(self.config.data.source, inputs)
        aux = _apply(self.model, self.variables, ids, record=True)[2]
        layers = self.config.model.moe_layers
        return by_layer(aux and aux.routing, layers, ids.shape)

    def sample(
        self,
        prompt: str,
        length: int = 400,
        *,
        seed: int = 0,
        temperature: float = 0.7,
        top: int = 0,
    ) -> str:
        """Continues a text; see `TrainedRun.sample`."""
        if not prompt:
            raise ConfigError('prompt', prompt, 'at least one byte')
        size = self.config.model.vocab_size
        if top > size:
            raise ConfigError('top', top, f'at most vocab_size ({size})')
        return sample(
            self.config,
            self.variables,
            prompt,
            length,
            seed=seed,
            temperature=temperature,
            top=top,
        )


def _ids(source: Source, inputs: Inputs) -> Int[np.ndarray, 'B S']:
    ids = (
        source.encode(inputs) if isinstance(inputs, str) else np.asarray(inputs)
    )
    return np.atleast_2d(ids.astype(np.int32))


@functools.partial(jax.jit, static_argnames=('model', 'record'))
def _apply(model: LM, variables: Any, ids: Any, record: bool):
    return model.apply(variables, ids, record=record)
