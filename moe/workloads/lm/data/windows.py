"""Batches of windows of a fixed length from a corpus.

S tokens a sequence, B sequences a batch over all hosts.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Annotated

import grain
import numpy as np

from moe.config import AtLeast, NaturalInt, OneOf, PositiveInt
from moe.workloads.batches import host_batches
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
      eval_sequences: number of validation sequences that an evaluation takes,
        evenly spaced and always the same; 0 for all.
    """

    source: Annotated[Source, OneOf(SOURCES)] = TextFiles()
    seq_len: Annotated[int, AtLeast(2)] = 128
    batch_size: PositiveInt = 32
    eval_sequences: NaturalInt = 0


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
      row holds S inputs and, one place on, S targets.
    """
    windows = (
        grain.MapDataset.source(
            _Windows(as_tokens(corpus.train), config.seq_len)
        )
        .seed(seed)
        .shuffle()
        .repeat(None)
    )
    return host_batches(windows, config.batch_size, host, num_hosts)


def val_batches(
    corpus: Corpus, config: DataConfig, host: int = 0, num_hosts: int = 1
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the validation set, or its share, once; the last batch is padded.

    Args:
      corpus: the tokens.
      config: config of the data.
      host: index of this host.
      num_hosts: number of hosts.

    Yields:
      This host's rows: tokens [B / num_hosts, S + 1], and a bool mask
      [B / num_hosts, S], False for targets that are padding.
    """
    length, text = config.seq_len, as_tokens(corpus.val)
    starts: Sequence[int] = range(0, len(text) - 1, length)
    if 0 < config.eval_sequences < len(starts):
        count = config.eval_sequences
        starts = [starts[i * len(starts) // count] for i in range(count)]
    for first in range(0, len(starts), config.batch_size):
        tokens = np.zeros((config.batch_size, length + 1), text.dtype)
        mask = np.zeros((config.batch_size, length), bool)
        rows = starts[first : first + config.batch_size]
        for row, start in enumerate(rows):
            window = text[start : start + length + 1]
            tokens[row, : len(window)] = window
            mask[row, : len(window) - 1] = True
        yield tokens[host::num_hosts], mask[host::num_hosts]


class _Windows:
    """Windows of S + 1 tokens; consecutive ones share a token."""

    def __init__(self, text: Tokens, length: int):
        self._text, self._length = text, length

    def __len__(self) -> int:
        return (len(self._text) - 1) // self._length

    def __getitem__(self, index) -> np.ndarray:
        start = int(index) * self._length
        return self._text[start : start + self._length + 1]
