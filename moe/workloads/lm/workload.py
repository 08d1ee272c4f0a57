"""The language-model task: next bytes of text.

B sequences a batch, S targets a sequence, W = S + 1 bytes of it, V vocabulary,
L mixture layers.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from moe.config import ConfigError, NaturalFloat, NaturalInt
from moe.parallel import replicated
from moe.training.workload import (
    Outcome,
    live_sums,
    mean_over,
    state_of,
)
from moe.workloads.lm.generate import decoding, generate
from moe.workloads.lm.model import LM, LMConfig
from moe.workloads.lm.text import (
    VOCAB_SIZE,
    Corpus,
    TextConfig,
    load_text,
    train_batches,
    val_batches,
)
from moe.workloads.lm.tokens import decode, encode
from moe.workloads.transformer import TransformerRun, TransformerTask

_MAP_BYTES = 512  # validation text shown with its experts in the report


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageConfig(TransformerRun):
    """A run of the language model.

    Attributes:
      sample_prompt: text that is continued at the end of the run.
      sample_length: bytes of the continuation; 0 for none.
    """

    model: LMConfig = dataclasses.field(default_factory=LMConfig)
    data: TextConfig = dataclasses.field(default_factory=TextConfig)
    losses: Mapping[str, NaturalFloat] = dataclasses.field(
        default_factory=lambda: {'load_balance': 0.01, 'router_z': 0.001}
    )
    sample_prompt: str = 'def '
    sample_length: NaturalInt = 400

    def __post_init__(self):
        super().__post_init__()
        if self.model.vocab_size < VOCAB_SIZE:
            raise ConfigError(
                'model.vocab_size',
                self.model.vocab_size,
                f'at least {VOCAB_SIZE}',
            )

    def make_task(self) -> 'Language':
        """The task that this describes."""
        return Language(self)

    @property
    def tokens_per_example(self) -> int:
        """S."""
        return self.data.seq_len


class Language(TransformerTask):
    """Bytes of text, each predicted from those before it.

    Training batches are uint8 [B, W]; validation batches are pairs of these
    and of bool [B, S], the targets that are text and not padding.
    """

    last_file = 'sample.txt'
    _config: LanguageConfig

    def __init__(self, config: LanguageConfig):
        super().__init__(config)
        self._model = LM(config.model)

    def initial(self, key):
        """Returns the model's variables before the first step."""
        # One sequence, or as many as divide into the groups of a batch.
        length = self._config.data.seq_len
        groups = self._config.model.moe.num_groups or 1
        count = groups // math.gcd(groups, length)
        tokens = jnp.zeros((count, length), jnp.int32)
        return dict(self._model.init(key, tokens))

    def forward(self, variables, batch, **options):
        """Sums the loss in nats over the live targets; see Task."""
        tokens, mask = batch if isinstance(batch, tuple) else (batch, None)
        tokens = tokens.astype(jnp.int32)
        logits, _, aux = self._model.apply(
            variables, tokens[:, :-1], mask=mask, **options
        )
        losses = token_losses(logits, tokens[:, 1:])
        return Outcome(live_sums(mask, loss=losses), aux, state_of(variables))

    def load(self):
        """Reads the corpus."""
        return load_text(self._config.data)

    def describe(self, data: Corpus):
        """Returns sizes and the fingerprint of the corpus."""
        return {
            'train_files': data.num_files[0],
            'val_files': data.num_files[1],
            'train_bytes': len(data.train),
            'val_bytes': len(data.val),
            'fingerprint': data.fingerprint,
        }

    def announce(self, data: Corpus):
        """Returns the sizes in words."""
        return (
            f'{len(data.train):,} bytes to train on in {data.num_files[0]} '
            f'files, {len(data.val):,} to validate on in {data.num_files[1]}'
        )

    def train_batches(self, data: Corpus, host, num_hosts):
        """Returns the endless iterator of `moe.workloads.lm.text`."""
        config = self._config
        return train_batches(data, config.data, config.seed, host, num_hosts)

    def val_batches(self, data: Corpus, host, num_hosts):
        """Yields the whole validation text once."""
        return val_batches(data, self._config.data, host, num_hosts)

    def results(self, batches):
        """Returns the loss in nats and in bits per byte."""
        means = mean_over(batches)
        return {**means, 'bits_per_byte': means['loss'] / math.log(2)}

    def headline(self, results):
        """Returns the bits per byte."""
        return f'validation {results["bits_per_byte"]:.4f} bits/byte'

    def leave(self, variables, data: Corpus, workdir: pathlib.Path):
        """Writes a sample, and a piece of text with the experts it went to."""
        config = self._config
        text = config.sample_prompt
        if config.sample_length and text:
            text += sample(config, variables, text, config.sample_length)
        if config.model.moe_every:
            tokens = self._piece(data)
            # A few sequences need not divide over the devices.
            model = LM(decoding(config.model))
            routing = _routing(model, variables, tokens)
            if jax.process_index() == 0 and routing is not None:
                _write_routing(workdir / 'routing.npz', tokens, routing)
        if jax.process_index() == 0:
            (workdir / self.last_file).write_text(text)
        return {'sample': text}

    def _piece(self, data: Corpus) -> np.ndarray:
        """Sequences from the middle of the validation text, [B, S]."""
        span, text = self._config.data.seq_len, data.val
        count = max(1, min(_MAP_BYTES, len(text)) // span)
        start = (len(text) - count * span) // 2
        piece = text[start : start + count * span]
        return np.asarray(piece, np.int32).reshape(count, span)


def token_losses(
    logits: Float[Array, 'B S V'], targets: Int[Array, 'B S']
) -> Float[Array, 'B S']:
    """Cross-entropy of each target in nats, float32."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def sample(
    config: LanguageConfig,
    variables: Any,
    prompt: str,
    length: int,
    *,
    seed: int = 0,
    temperature: float = 0.7,
    top: int = 0,
) -> str:
    """Continues a text.

    Args:
      config: of the run.
      variables: of the model.
      prompt: text to continue, at least one byte.
      length: bytes to generate.
      seed: of the draw.
      temperature: divides the logits; 0 takes the likeliest byte.
      top: draws among the likeliest bytes only; 0 among all.

    Returns:
      The continuation; bytes that are not UTF-8 are shown as marks.
    """
    tokens = encode(prompt)
    size, span = len(tokens), config.data.seq_len
    key = jax.random.key(seed)
    while len(tokens) < size + length:
        # Positions past those trained on mean nothing: go on from the last
        # half of the span.
        window = tokens if len(tokens) < span else tokens[-(span // 2) :]
        out = generate(
            config.model,
            variables,
            window[None],
            jax.random.fold_in(key, len(tokens)),
            length=min(span - len(window), size + length - len(tokens)),
            temperature=temperature,
            top=top,
        )
        tokens = np.concatenate([tokens, np.asarray(out[0])])
    return decode(tokens[size:])


@functools.partial(jax.jit, static_argnums=0)
def _routing(model, variables, tokens):
    """Where every token goes."""
    _, _, aux = model.apply(variables, tokens, record=True)
    return replicated(aux.routing)


def _write_routing(path, tokens, routing) -> None:
    """First-choice expert of every token, by mixture layer: [L, T]."""
    if isinstance(routing[0], tuple):  # of two levels, the outer one
        routing = routing[0]
    if routing.token is not None:  # experts chose: no token has a first
        return
    expert = np.asarray(routing.expert)  # [L, G, K, S]
    first = expert[:, :, 0].reshape(expert.shape[0], -1)
    np.savez(path, tokens=np.asarray(tokens, np.uint8).reshape(-1), first=first)
