"""The data source of an array in memory, for notebooks and tests."""

import dataclasses
import hashlib
from typing import Annotated

import numpy as np

from moe.config import NaturalInt, Within
from moe.workloads.lm.data.sources import SOURCES, Corpus, check_length
from moe.workloads.lm.data.token_files import Tokenized, split
from moe.workloads.lm.data.tokenizer import read_tokenizer
from moe.workloads.lm.data.tokens import Delimited, InMemory, Tokens


@SOURCES.register('array')
@dataclasses.dataclass(frozen=True)
class ArraySource(Tokenized):
    """Token ids that stand in the config itself, as `array.tolist()`.

    Attributes:
      ids: the ids.
      val_fraction: share of the ids that are for validation, the last ones, at
        least one sequence.
      tokenizer: path of the `tokenizer.json` of the ids; '' for none.
      end_of_text: the id that ends a document; None if there is none.
    """

    ids: tuple[NaturalInt, ...] = ()
    val_fraction: Annotated[float, Within(0.0, 0.5)] = 0.02
    tokenizer: str = ''
    end_of_text: NaturalInt | None = None

    def find_tokenizer(self):
        """Returns the tokenizer that is named, if any."""
        return read_tokenizer(self.tokenizer) if self.tokenizer else None

    @property
    def vocab_size(self) -> int:
        """Returns one more than the largest id."""
        return max(super().vocab_size, 1 + max(self.ids, default=0))

    def load(self, seq_len):
        """Makes the array and splits it."""
        ids = np.array(self.ids, np.int32)
        tokens: Tokens = InMemory(ids)
        if self.end_of_text is not None:
            tokens = Delimited(tokens, self.end_of_text)
        train, val = split(tokens, self.val_fraction, seq_len)
        digest = hashlib.sha256(ids.astype('<i4').tobytes())
        digest.update(str(len(train)).encode())
        facts = {'train_tokens': len(train), 'val_tokens': len(val)}
        corpus = Corpus(train, val, digest.hexdigest()[:16], facts)
        check_length(corpus, seq_len, 'ids', f'{len(ids)} ids')
        return corpus
