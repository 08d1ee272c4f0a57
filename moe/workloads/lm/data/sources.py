"""The interface of data sources of the language model, and their registry.

A source is a frozen dataclass whose fields are its options, registered in
`SOURCES`; a config chooses one as `data.source = {name: ..., **options}`.
N tokens, V token ids.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from moe.config import ConfigError, Registry
from moe.workloads.lm.data.tokens import Tokens

SOURCES = Registry('data source')


class Mixed(NamedTuple):
    """How the training sets of several corpora are mixed.

    Attributes:
      parts: the corpora by name.
      stages: pairs of a step and the weight of each corpus from it on by name;
        the first step is 0.
    """

    parts: Mapping[str, 'Corpus']
    stages: Sequence[tuple[int, Mapping[str, float]]]


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Token ids of the training and the validation set.

    Attributes:
      train: training tokens: `Tokens`, or an array [N] of any integers, which
        may be a memory map.
      val: validation tokens, of text that is not in `train`.
      fingerprint: identifies the corpus, such as a hash of it.
      facts: sizes in the units of the source by name, JSON; they are compared
        when a run resumes.
      notes: lines about the data, told when a run starts.
      mixture: the corpora that it is mixed of; None for a single one.
      others: corpora by name whose `val` is evaluated too.
    """

    train: Tokens | np.ndarray
    val: Tokens | np.ndarray
    fingerprint: str
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    mixture: Mixed | None = None
    others: Mapping[str, 'Corpus'] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Source(abc.ABC):
    """A source of tokens, with their encoding.

    Attributes:
      bytes_per_token: mean number of bytes of text of a token, which turns a
        loss in nats into bits per byte; None if unknown.
    """

    bytes_per_token: ClassVar[float | None] = None

    @property
    @abc.abstractmethod
    def vocab_size(self) -> int:
        """Returns V; every id is less than it. 1 if the data alone tell."""

    @abc.abstractmethod
    def load(self, seq_len: int) -> Corpus:
        """Opens the tokens.

        Args:
          seq_len: S; each part of a corpus needs at least S + 1 tokens.

        Raises:
          ConfigError: for unreadable data; its field is relative to the source.
        """

    def encode(self, text: str) -> np.ndarray:
        """Returns the ids of a text, int32 [N].

        Raises:
          ConfigError: if the source's tokens do not encode text.
        """
        allowed = "'' for a data source whose tokens stand for no text"
        raise ConfigError('sample_prompt', text, allowed)

    def decode(self, ids: np.ndarray) -> str:
        """Returns the text of ids [N], or their numbers if they encode none."""
        return ' '.join(str(int(i)) for i in ids)

    def pieces(self, ids: np.ndarray) -> list[str]:
        """Returns the text of each of the ids [N] by itself."""
        return [self.decode(np.array([i])) for i in ids]

    def tokenizer_digest(self) -> str | None:
        """Returns what identifies the tokenizer; None if it is unknown."""
        return None

    def tokenizer_json(self) -> str | None:
        """Returns the contents of the `tokenizer.json`; None without one."""
        return None

    def token_bytes(self) -> np.ndarray | None:
        """Returns the bytes of text of each id, int32 [V]; None if unknown.

        By it a loss is in bits per byte of the very tokens it is of.
        """
        return None


def check_length(corpus: Corpus, seq_len: int, field: str, value: Any) -> None:
    """Refuses a corpus without one whole sequence in each part.

    Args:
      corpus: the tokens.
      seq_len: S.
      field: option of the source that caused it, for the message.
      value: value of the option.

    Raises:
      ConfigError: if there are fewer than S + 1 tokens to train on, or to
        validate on.
    """
    parts = {'training': corpus.train, 'validation': corpus.val}
    for name, ids in parts.items():
        if len(ids) < seq_len + 1:
            allowed = (
                f'of at least seq_len + 1 = {seq_len + 1} {name} tokens (there '
                f'are {len(ids)})'
            )
            raise ConfigError(field, value, allowed)
