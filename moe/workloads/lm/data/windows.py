"""Batches of windows of a fixed length from a corpus.

S tokens a sequence, B sequences a batch over all hosts.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple
from zlib import crc32

import grain
import jax
import numpy as np

from moe.config import AtLeast, NaturalInt, OneOf, PositiveInt
from moe.workloads.batches import host_batches
from moe.workloads.lm.data.mixture import MixedExamples
from moe.workloads.lm.data.packing import PACKINGS, Evenly, Packed
from moe.workloads.lm.data.sources import SOURCES, Corpus, Source
from moe.workloads.lm.data.text import TextFiles
from moe.workloads.lm.data.tokens import Tokens, as_tokens


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The config of the language model's data.

    Attributes:
      source: source of the tokens.
      seq_len: S, number of tokens of a sequence.
      batch_size: B, number of sequences of a step, over all hosts.
      packing: what a sequence holds. stream: consecutive tokens, whatever
        their documents. documents: the same, and attention, positions and
        targets end where a document does. best_fit: whole documents together,
        longer ones in pieces, with as little padding as best-fit leaves.
      eval_sequences: number of validation sequences that an evaluation takes of
        each set, evenly spaced and always the same; 0 for all.
      eval_sources: further validation sets by name, of sources whose tokens are
        all taken; their losses are `eval/NAME/loss`.
    """

    source: Annotated[Source, OneOf(SOURCES)] = TextFiles()
    seq_len: Annotated[int, AtLeast(2)] = 128
    batch_size: PositiveInt = 32
    packing: Literal['stream', 'documents', 'best_fit'] = 'stream'
    eval_sequences: NaturalInt = 0
    eval_sources: Mapping[str, Annotated[Source, OneOf(SOURCES)]] = (
        dataclasses.field(default_factory=dict)
    )


def train_batches(
    corpus: Corpus,
    config: DataConfig,
    seed: int,
    host: int = 0,
    num_hosts: int = 1,
) -> grain.DatasetIterator:
    """Returns endless shuffled batches, this host's rows of each global one.

    Batch t is the same set of windows on any number of hosts, and the
    iterator's state, `{"next_index": t}`, is the same on all of them.

    Args:
      corpus: the tokens.
      config: config of the data.
      seed: seed of the order, which differs between epochs.
      host: index of this host.
      num_hosts: number of hosts.

    Returns:
      An iterator over arrays [B / num_hosts, S + 1] of the corpus's dtype: each
      row holds S inputs and, one place on, S targets; or over `Packed`.
    """
    if corpus.mixture is None:
        examples = _shuffled(corpus, config, seed)
    else:
        each = {
            # Sources of one size have orders of their own.
            name: _shuffled(part, config, (seed + crc32(name.encode())) % 2**32)
            for name, part in corpus.mixture.parts.items()
        }
        dtype = as_tokens(corpus.train).dtype
        examples = grain.MapDataset.source(
            MixedExamples(each, corpus.mixture, config.batch_size, dtype)
        )
    return host_batches(examples, config.batch_size, host, num_hosts)


def _shuffled(corpus: Corpus, config: DataConfig, seed: int) -> Any:
    """Returns the windows of a corpus without an end, shuffled each time."""
    windows = windows_of(corpus, 'train', config)
    return grain.MapDataset.source(windows).seed(seed).shuffle().repeat(None)


def val_batches(
    corpus: Corpus, config: DataConfig, host: int = 0, num_hosts: int = 1
) -> Iterator[Any]:
    """Yields the validation set, or its share, once; the last batch is padded.

    Of several sets the batches are `OfSet`, and each has a share of its own.

    Several sets follow each other, each with a share of its own.

    Args:
      corpus: the tokens.
      config: config of the data.
      host: index of this host.
      num_hosts: number of hosts.

    Yields:
      This host's rows: tokens [B / num_hosts, S + 1], and a bool mask
      [B / num_hosts, S], False for targets that are padding; or `Packed`, of
      known documents.
    """
    sets = validation_sets(corpus)
    for index, part in enumerate(sets.values()):
        windows = Evenly(windows_of(part, 'val', config), config.eval_sequences)
        empty = jax.tree.map(np.zeros_like, windows[0])
        for first in range(0, len(windows), config.batch_size):
            count = min(config.batch_size, len(windows) - first)
            rows = [windows[first + i] for i in range(count)]
            rows += [empty] * (config.batch_size - count)
            mine = rows[host::num_hosts]
            batch = jax.tree.map(lambda *rows: np.stack(rows), *mine)
            if len(sets) == 1:
                yield batch
            else:
                wide = batch[0].astype(np.int32)  # one program for all
                made = (wide, *batch[1:])
                whole = Packed(*made) if isinstance(batch, Packed) else made
                yield OfSet(whole, np.full(len(mine), index, np.int32))


class OfSet(NamedTuple):
    """A validation batch that says of which set it is.

    Attributes:
      batch: as of a single set.
      number: number of the set, int32 [B].
    """

    batch: Any
    number: Any


def validation_sets(corpus: Corpus) -> dict[str, Corpus]:
    """Returns what is evaluated by name: `val` of each.

    Args:
      corpus: the tokens; of a mixture each part is a set, then come the others.
    """
    mixture = corpus.mixture
    sets = {'': corpus} if mixture is None else mixture.parts
    return {**sets, **corpus.others}


def windows_of(
    corpus: Corpus, part: Literal['train', 'val'], config: DataConfig
) -> Any:
    """Returns the windows of a part of a corpus, in the order of the tokens.

    Args:
      corpus: the tokens.
      part: which; in a stream the validation set has masks, and its last
        window may be shorter.
      config: config of the data.
    """
    tokens = as_tokens(getattr(corpus, part))
    if config.packing != 'stream':
        key = f'{corpus.fingerprint} {part}'
        return PACKINGS[config.packing](tokens, config.seq_len, key)
    return (_Windows if part == 'train' else _Masked)(tokens, config.seq_len)


class _Windows:
    """Windows of S + 1 tokens; consecutive ones share a token."""

    def __init__(self, text: Tokens, length: int):
        self._text, self._length = text, length

    def __len__(self) -> int:
        return (len(self._text) - 1) // self._length

    def __getitem__(self, index) -> Any:
        start = int(index) * self._length
        return self._text[start : start + self._length + 1]


class _Masked(_Windows):
    """The same with a mask of the targets, and what is left at the end."""

    def __len__(self) -> int:
        return -(-(len(self._text) - 1) // self._length)

    def __getitem__(self, index) -> Any:
        window = super().__getitem__(index)
        missing = self._length + 1 - len(window)
        mask = np.arange(self._length) < len(window) - 1
        return np.pad(window, (0, missing)), mask
