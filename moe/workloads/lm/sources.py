"""Where the language model's tokens come from.

A source is a frozen dataclass whose fields are its options, registered in
`SOURCES`; a config chooses one as `data.source = {name: ..., **options}`.
"""

import abc
import dataclasses
from typing import Any, ClassVar

import numpy as np

from moe.config import ConfigError, Registry

SOURCES = Registry('data source')


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Token ids to train on, and others to validate on.

    Attributes:
      train: [N] of any integer dtype, an array or a memory map.
      val: likewise, of text that is not in `train`.
      fingerprint: tells two corpora apart, such as a hash of all of it.
      facts: sizes in the units of the source, by name, as JSON; runs on other
        sizes are of other data.
    """

    train: np.ndarray
    val: np.ndarray
    fingerprint: str
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Source(abc.ABC):
    """Tokens, and what they stand for.

    Attributes:
      bytes_per_token: bytes of text that a token stands for in the mean, from
        which a loss in nats becomes bits per byte; None where that is unknown.
    """

    bytes_per_token: ClassVar[float | None] = None

    @property
    @abc.abstractmethod
    def vocab_size(self) -> int:
        """V; every id is less than this."""

    @abc.abstractmethod
    def load(self, seq_len: int) -> Corpus:
        """Reads the tokens.

        Args:
          seq_len: S; a corpus needs S + 1 tokens at least, of each part.

        Raises:
          ConfigError: for what cannot be read; its field is relative to the
            source.
        """

    def encode(self, text: str) -> np.ndarray:
        """Returns the ids of a text, int32 [N].

        Raises:
          ConfigError: if the source's tokens stand for no text.
        """
        allowed = "'' for a data source whose tokens stand for no text"
        raise ConfigError('sample_prompt', text, allowed)

    def decode(self, ids: np.ndarray) -> str:
        """Returns what ids [N] stand for: the text, or else the numbers."""
        return ' '.join(str(int(i)) for i in ids)

    def pieces(self, ids: np.ndarray) -> list[str]:
        """Returns what each of the ids [N] stands for alone."""
        return [self.decode(np.array([i])) for i in ids]


def check_length(corpus: Corpus, seq_len: int, field: str, value: Any) -> None:
    """Refuses a corpus without one whole sequence in each part.

    Args:
      corpus: the tokens.
      seq_len: S.
      field: option of the source that is to blame, for the message.
      value: of the option.

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
