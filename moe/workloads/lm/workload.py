"""The workload of the language model: next-token prediction.

B sequences a batch, S targets a sequence, W = S + 1 tokens of it, V vocabulary,
L mixture layers.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from moe import files
from moe.config import ConfigError, NaturalFloat, NaturalInt
from moe.config.constraints import check_unicode
from moe.models.mtp import look_ahead
from moe.ops.attention import ATTENTION_KERNELS, takes
from moe.totals import Total
from moe.training.workload import (
    Outputs,
    Predictions,
    masked_means,
    state_of,
)
from moe.workloads.lm.data import Corpus, Source
from moe.workloads.lm.data.kept import keep_tokenizer
from moe.workloads.lm.data.mixture import (
    Mixture,
    check_name,
    check_tokenizers,
)
from moe.workloads.lm.data.packing import Packed, check_documents
from moe.workloads.lm.data.tokens import Joined, as_tokens
from moe.workloads.lm.data.vocabulary import checked
from moe.workloads.lm.data.windows import (
    DataConfig,
    OfSet,
    train_batches,
    val_batches,
    validation_sets,
    windows_of,
)
from moe.workloads.lm.expert_use import write_expert_use
from moe.workloads.lm.generate import Generator, continuation, decoding
from moe.workloads.lm.losses import (
    further_losses,
    output_z,
    token_losses,
)
from moe.workloads.lm.model import LM, LMConfig
from moe.workloads.lm.sampling import Sampling
from moe.workloads.transformer import TransformerRun, TransformerWorkload


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageConfig(TransformerRun):
    """The config of a run of the language model.

    Attributes:
      sample_prompt: text that is continued at the end of the run.
      sample_length: number of tokens of the continuation; 0 for none.
    """

    output_losses: ClassVar[tuple[str, ...]] = ('output_z',)

    model: LMConfig = dataclasses.field(default_factory=LMConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    losses: Mapping[str, NaturalFloat] = dataclasses.field(
        default_factory=lambda: {'load_balance': 0.01, 'router_z': 0.001}
    )
    sample_prompt: str = 'def '
    sample_length: NaturalInt = 400

    def _count_steps(self):
        """Turns numbers of tokens, of a mixture's stages too, into steps."""
        super()._count_steps()
        source = self.data.source
        if isinstance(source, Mixture):
            try:
                source = source.in_steps(self._in_steps)
            except ConfigError as error:
                raise error.inside('data.source') from None
            data = dataclasses.replace(self.data, source=source)
            object.__setattr__(self, 'data', data)

    def __post_init__(self):
        super().__post_init__()
        check_unicode('sample_prompt', self.sample_prompt)
        kernel = self.model.attention
        if self.data.packing != 'stream' and not takes(kernel, 'segments'):
            name = ATTENTION_KERNELS.name_of(kernel)
            allowed = 'a kernel with segments, which data.packing needs'
            raise ConfigError('model.attention.name', name, allowed)
        own = getattr(self.data.source, 'sources', {})
        for name in self.data.eval_sources:
            check_name('data.eval_sources', name)
            if name in own:
                allowed = 'of other names than the sources have'
                raise ConfigError('data.eval_sources', name, allowed)
        least = self.data.source.vocab_size
        if self.model.vocab_size < least:
            raise ConfigError(
                'model.vocab_size', self.model.vocab_size, f'at least {least}'
            )

    def make_workload(self) -> 'Language':
        """Returns the workload that this describes."""
        return Language(self)

    @property
    def coefficients(self) -> Mapping[str, float]:
        """Returns those of `losses`, and of multi-token prediction."""
        mtp = self.model.mtp
        return {**self.losses, **(mtp.coefficients if mtp else {})}

    @property
    def tokens_per_example(self) -> int:
        """Returns S, the length of a sequence."""
        return self.data.seq_len


class Language(TransformerWorkload):
    """Tokens, each predicted from those before it.

    Training batches are integers [B, W]; validation batches are pairs of these
    and of bool [B, S], False for targets that are padding. With known documents
    both are `Packed`.
    """

    final_file = 'sample.txt'
    seen = 0.5  # by causal attention
    _config: LanguageConfig

    def __init__(self, config: LanguageConfig):
        super().__init__(config)
        source = config.data.source
        self._token_bytes = source.token_bytes()
        # Validation sets of what is trained on.
        self._own_sets = list(getattr(source, 'sources', {'': source}))
        known = source.bytes_per_token or self._token_bytes is not None
        self.primary_metrics = ('bits_per_byte' if known else 'perplexity',)
        self._model = LM(config.model)

    def init(self, key):
        """Returns the model's variables before the first step."""
        # One sequence, or as many as the groups of a batch need.
        length = self._config.data.seq_len
        groups = self._config.model.moe.num_groups or 1
        count = groups // math.gcd(groups, length)
        tokens = jnp.zeros((count, length), jnp.int32)
        variables = dict(self._model.init(key, tokens))
        dtype = jnp.dtype(self._config.model.param_dtype)
        cast = lambda x: x.astype(dtype)
        return {**variables, 'params': jax.tree.map(cast, variables['params'])}

    def forward(self, variables, batch, **options):
        """Applies the model; the loss is in nats, over the valid targets."""
        batch, number = batch if isinstance(batch, OfSet) else (batch, None)
        tokens, mask, valid, segments = _unpacked(batch)
        targets = tokens[:, 1:]
        options = {'mask': valid, 'segments': segments, **options}
        losses: dict[str, Total] = {}
        if 'train' in options:
            logits, aux, losses = self._train(
                variables, tokens, targets, mask, options
            )
        else:
            inputs = tokens[:, :-1]
            logits, _, aux = self._model.apply(variables, inputs, **options)
        values = {'loss': token_losses(logits, targets)}
        if 'train' not in options and self._token_bytes is not None:
            values['bytes_per_token'] = jnp.asarray(self._token_bytes)[targets]
        means = {}
        if number is not None:
            means = self._means_of_sets(mask, number, values)
            own = number < len(self._own_sets)
            mask = mask & own[:, None]
        means |= masked_means(mask, **values)
        if mask is None:
            mask = jnp.ones(targets.shape, bool)
        predictions = {'': Predictions(logits, targets, mask)}
        state = state_of(variables)
        return Outputs(means, aux, state, predictions, losses)

    def _train(self, variables, tokens, targets, mask, options):
        """Returns logits, the Aux, and the auxiliary losses of the outputs."""
        ahead = look_ahead(targets, mask, self._config.model.depth)
        (logits, *further), _, aux = self._model.apply(
            variables,
            tokens[:, :-1],
            ahead,
            method=LM.with_further,
            **options,
        )
        losses = further_losses(ahead, further)
        weight = self._config.losses.get('output_z', 0.0)
        if isinstance(weight, jax.Array) or weight:
            losses['output_z'] = output_z(logits, mask)
        return logits, aux, losses

    def _means_of_sets(self, mask, number, values):
        """Returns the means of each validation set that has a name."""
        means: dict[str, Any] = {}
        others = self._config.data.eval_sources
        for i, name in enumerate([*self._own_sets, *others]):
            if name:
                found = masked_means(mask & (number == i)[:, None], **values)
                means |= {
                    f'{name}/{kind}': mean for kind, mean in found.items()
                }
        return means

    def example_bytes(self):
        """Returns those of the logits too."""
        model, length = self._config.model, self._config.data.seq_len
        logits = length * model.vocab_size * jnp.dtype(model.dtype).itemsize
        logits *= model.trained_outputs
        more = {'batch': length + 1, 'logits': logits}
        return super().example_bytes() | more

    def load_data(self):
        """Reads the corpus."""
        config = self._config.data
        corpus = self._load(config.source, 'source')
        others = {}
        for name, source in config.eval_sources.items():
            found = self._load(source, f'eval_sources.{name}')
            check_tokenizers(
                {'data.source': config.source, name: source},
                'config.data.eval_sources',
            )
            whole = [as_tokens(found.val), as_tokens(found.train)]
            others[name] = dataclasses.replace(found, val=Joined(whole))
        return dataclasses.replace(corpus, others=others)

    def _load(self, source: Source, field: str) -> Corpus:
        config = self._config.data
        try:
            corpus = source.load(config.seq_len)
        except ConfigError as error:
            raise error.inside(f'config.data.{field}') from None
        if config.packing != 'stream':
            for part in (corpus.train, corpus.val):
                check_documents(as_tokens(part), config.packing)
        return checked(corpus, self._config.model.vocab_size)

    def describe_data(self, data: Corpus):
        """Returns sizes and the fingerprints of all sets."""
        found = {**data.facts, 'fingerprint': data.fingerprint}
        for name, other in data.others.items():
            found[f'{name}_tokens'] = len(other.val)
            found[f'{name}_fingerprint'] = other.fingerprint
        return found

    def save_assets(self, data: Corpus, workdir: pathlib.Path):
        """Writes the tokenizer, so that a folder by itself has it."""
        del data
        keep_tokenizer(self._config.data.source, workdir)

    def notes(self, data: Corpus):
        """Returns what was found in the data, and how much was looked at."""
        found, config = list(data.notes), self._config.data
        if not self._has_text():
            found.append(
                'the data have no tokenizer (config.data.source.tokenizer): '
                'there is no sample, and losses are per token'
            )
        parts = {'': data} if data.mixture is None else data.mixture.parts
        for name, part in parts.items() if config.packing == 'best_fit' else ():
            share = windows_of(part, 'train', config).padding()
            of = f' of {name}' if name else ''
            found.append(f'best-fit packing{of} leaves {share:.2%} as padding')
        return found

    def train_batches(self, data: Corpus, host, num_hosts):
        """Returns the batches of `moe.workloads.lm.data.windows`."""
        config = self._config
        return train_batches(data, config.data, config.seed, host, num_hosts)

    def eval_batches(self, data: Corpus, host, num_hosts):
        """Yields the whole validation set once."""
        return val_batches(data, self._config.data, host, num_hosts)

    def eval_metrics(self, means, rows):
        """Returns the loss in nats, and in bits per byte or as perplexity."""
        found = {}
        for name, value in means.items():
            of, _, kind = name.rpartition('/')
            of = f'{of}/' if of else ''
            if kind != 'bytes_per_token':
                found[name] = value
            if kind != 'loss':
                continue
            width = means.get(
                f'{of}bytes_per_token', self._config.data.source.bytes_per_token
            )
            if width:
                found[f'{of}bits_per_byte'] = value / math.log(2) / width
            else:
                found[f'{of}perplexity'] = math.exp(min(value, 700))
        return found

    def finalize(self, variables, data: Corpus, workdir: pathlib.Path):
        """Writes a sample, and what the experts read of the validation sets."""
        config = self._config
        text = config.sample_prompt if self._has_text() else ''
        if config.sample_length and text:
            text += sample(config, variables, text, config.sample_length)
        if config.model.moe_layers:
            sets = validation_sets(data)
            write_expert_use(
                workdir,
                # A few sequences need not make groups for all devices.
                LM(decoding(config.model)),
                variables,
                {name: as_tokens(own.val) for name, own in sets.items()},
                config.data.source,
                config.data.seq_len,
            )
        if jax.process_index() == 0:
            files.write_text(workdir / self.final_file, text)
        return {'sample': text}

    def _has_text(self) -> bool:
        """Whether the tokens of the source stand for text."""
        try:
            return len(self._config.data.source.encode('a')) > 0
        except ConfigError:
            return False


def _unpacked(batch: Any) -> tuple[Array, Any, Any, Any]:
    """Returns tokens [B, W], and by position [B, S] or None for all alike.

    Which targets count, which inputs are no padding, and the documents.
    """
    if isinstance(batch, Packed):
        tokens, segments = (x.astype(jnp.int32) for x in batch)
        inputs, targets = segments[:, :-1], segments[:, 1:]
        # Nothing follows from the last token of a document.
        mask = (inputs == targets) & (targets > 0)
        return tokens, mask, inputs > 0, inputs
    tokens, mask = batch if isinstance(batch, tuple) else (batch, None)
    return tokens.astype(jnp.int32), mask, mask, None


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
      config: config of the run.
      variables: variables of the model.
      prompt: text to continue, at least one token.
      length: number of tokens to generate.
      seed: seed of the draws.
      temperature: divides the logits; 0 takes the likeliest token.
      top: number of likeliest tokens to draw from; 0 draws from all.

    Returns:
      The continuation, as the data source decodes it.
    """
    source = config.data.source
    made = continuation(
        Generator(config.model, variables),
        source.encode(prompt),
        length,
        span=config.data.seq_len,
        seed=seed,
        sampling=Sampling(temperature, top),
    )
    return source.decode(np.concatenate([*made]))
