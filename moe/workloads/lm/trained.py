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
from moe.workloads.lm.generate import Generator, continuation
from moe.workloads.lm.model import LM
from moe.workloads.lm.sampling import Sampling
from moe.workloads.lm.workload import LanguageConfig
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
        options: Any = {'temperature': temperature, 'top': top}
        found = self.stream([prompt], length, seed=seed, **options)
        return ''.join(texts[0] for texts, _ in found)

    def stream(self, prompts, length=400, *, seed=0, temperature=0.7, **more):
        """Continues texts; see `TrainedRun.stream`."""
        sampling = Sampling(temperature, **more)
        source, span = self.config.data.source, self.config.data.seq_len
        if not all(prompts):
            raise ConfigError('prompt', '', 'at least one byte')
        ids = [_ids(source, prompt)[0] for prompt in prompts]
        if len(ids) == 1:
            made = continuation(
                self._generator,
                ids[0],
                length,
                span=span,
                seed=seed,
                sampling=sampling,
            )
            chunks: Any = ([tokens] for tokens in made)
        else:
            if (longest := max(map(len, ids))) + length > span:
                allowed = (
                    f'at most {max(span - longest, 0)} after the longest of '
                    f'several prompts, of {span} positions trained on'
                )
                raise ConfigError('length', length, allowed)
            found = self._generator.stream(
                ids, jax.random.key(seed), length=length, sampling=sampling
            )
            chunks = (
                [t[c] for t, c in zip(x.token, x.counts, strict=True)]
                for x in found
            )
        return _texts(source, chunks, len(ids))

    @functools.cached_property
    def _generator(self) -> Generator:
        return Generator(self.config.model, self.variables)


def _texts(source: Source, chunks: Any, count: int):
    """Yields what each chunk adds to the texts, and its number of tokens.

    The end of a text that is no character yet waits for the next chunk.
    """
    parts: list[list[Any]] = [[] for _ in range(count)]
    shown = [''] * count

    def added(*, whole: bool) -> list[str]:
        new = []
        for i, part in enumerate(parts):
            text = source.decode(np.concatenate(part)) if part else ''
            text = text if whole else text.rstrip('\ufffd')
            new.append(text[len(shown[i]) :])
            shown[i] += new[-1]
        return new

    for chunk in chunks:
        for part, tokens in zip(parts, chunk, strict=True):
            part.append(tokens)
        yield added(whole=False), sum(map(len, chunk))
    yield added(whole=True), 0


def _ids(source: Source, inputs: Inputs) -> Int[np.ndarray, 'B S']:
    ids = (
        source.encode(inputs) if isinstance(inputs, str) else np.asarray(inputs)
    )
    return np.atleast_2d(ids.astype(np.int32))


@functools.partial(jax.jit, static_argnames=('model', 'record'))
def _apply(model: LM, variables: Any, ids: Any, record: bool):
    return model.apply(variables, ids, record=record)
