"""Whether a model has a row for every token id of its data.

V token ids of the model.
"""

import dataclasses
from typing import Any

from moe.config import ConfigError
from moe.workloads.lm.data.mixture import mixed
from moe.workloads.lm.data.sources import Corpus
from moe.workloads.lm.data.tokens import Tokens, as_tokens, largest_id

FIELD = 'config.model.vocab_size'


@dataclasses.dataclass(frozen=True)
class Checked(Tokens):
    """Tokens whose ids are compared with V whenever they are read.

    Attributes:
      tokens: the tokens.
      vocab_size: V.
    """

    tokens: Tokens
    vocab_size: int

    @property
    def dtype(self):
        """Returns that of the tokens."""
        return self.tokens.dtype

    def __len__(self):
        return len(self.tokens)

    def read(self, start, stop):
        """Returns a span; raises ConfigError for an id that is not below V."""
        ids = self.tokens.read(start, stop)
        if len(ids):
            _check(int(ids.max()), int(ids.min()), self.vocab_size)
        return ids

    def document_starts(self, start, stop):
        """Returns those of the tokens."""
        return self.tokens.document_starts(start, stop)


def checked(corpus: Corpus, vocab_size: int) -> Corpus:
    """Refuses a corpus with an id that the model does not have.

    Of many tokens evenly spaced blocks are looked at, and the others when they
    are read.

    Args:
      corpus: the tokens.
      vocab_size: V of the model.

    Returns:
      The corpus, with `Tokens` for arrays, and a note if not all were looked
      at.

    Raises:
      ConfigError: with the largest id that was found.
    """
    if corpus.mixture:
        parts = corpus.mixture.parts
        each = {n: checked(part, vocab_size) for n, part in parts.items()}
        return mixed(each, corpus.mixture._replace(parts=each))
    tokens_of: dict[str, Any] = {'train': corpus.train, 'val': corpus.val}
    notes = list(corpus.notes)
    for name, ids in tokens_of.items():
        tokens = as_tokens(ids)
        least, largest, seen = largest_id(tokens)
        _check(largest, least, vocab_size)
        if seen < len(tokens):
            tokens = Checked(tokens, vocab_size)
            notes.append(
                f'the largest id of {seen:,} {name} tokens, evenly spaced, is '
                f'{largest:,}; the others are compared with vocab_size when '
                'they are read'
            )
        tokens_of[name] = tokens
    return dataclasses.replace(corpus, **tokens_of, notes=tuple(notes))


def _check(largest: int, least: int, vocab_size: int) -> None:
    if least < 0:
        allowed = 'data of other ids (there is one below 0 or above 2^31 - 1)'
        raise ConfigError(FIELD, vocab_size, allowed)
    if largest >= vocab_size:
        allowed = f'at least {largest + 1}: the data have the id {largest}'
        raise ConfigError(FIELD, vocab_size, allowed)
