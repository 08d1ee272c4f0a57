"""What sources of tokenized files share: options, split, identity."""

import abc
import dataclasses
import glob
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from moe.config import ConfigError, NaturalInt, Within
from moe.workloads.data_files import MANIFEST, by_number, matching
from moe.workloads.lm.data.sources import Corpus, Source, check_length
from moe.workloads.lm.data.tokenizer import (
    Bytes,
    FileTokenizer,
    Tokenizer,
    read_tokenizer,
)
from moe.workloads.lm.data.tokens import (
    Delimited,
    Joined,
    Span,
    Tokens,
    repeated_documents,
)

_NEAR = 2**20  # tokens in which a split looks for the start of a document


@dataclasses.dataclass(frozen=True)
class Tokenized(Source, abc.ABC):
    """A source whose ids stand for text by a tokenizer."""

    @abc.abstractmethod
    def find_tokenizer(self) -> Tokenizer | None:
        """Returns the tokenizer; None if there is none.

        Raises:
          ConfigError: if it cannot be read.
        """

    def _tokenizer(self) -> Tokenizer | None:
        """Returns the tokenizer, None if it is no longer there."""
        try:
            return self.find_tokenizer()
        except ConfigError:
            return None

    def tokenizer_digest(self):
        """Returns the hash of the tokenizer."""
        found = self._tokenizer()
        return found.digest if found else None

    def tokenizer_json(self):
        """Returns the contents of the file, None for bytes or if it is gone."""
        found = self._tokenizer()
        return found.text if isinstance(found, FileTokenizer) else None

    @property
    def vocab_size(self) -> int:
        """Returns that of the tokenizer; 1 if it is unknown."""
        found = self._tokenizer()
        return found.vocab_size if found else 1

    def encode(self, text):
        """Returns the tokenizer's ids."""
        found = self.find_tokenizer()
        return found.encode(text) if found else super().encode(text)

    def decode(self, ids):
        """Returns the text, or the numbers without a tokenizer."""
        found = self._tokenizer()
        return found.decode(ids) if found else super().decode(ids)

    def pieces(self, ids):
        """Returns the text of each id, or its number without a tokenizer."""
        found = self._tokenizer()
        if found:
            return found.pieces(ids)
        return [f'{int(i)} ' for i in ids]

    def token_bytes(self):
        """Returns those of the tokenizer."""
        found = self._tokenizer()
        if found is None or isinstance(found, Bytes):
            return None
        return found.token_bytes()


@dataclasses.dataclass(frozen=True)
class TokenFiles(Tokenized, abc.ABC):
    """Files of token ids, mapped while they are read.

    They follow each other in the order of their names, numbers by their value.
    Without `val_files` the last documents validate: by position, as a split by
    contents would read all files before the first step, whatever their size.
    For the same reason repeated documents are looked for in a sample.

    Attributes:
      files: path or glob of the files, or a folder.
      val_files: the same for validation; '' splits `files`.
      val_fraction: share of the tokens that are for validation, at least one
        sequence, from the start of a document on where documents are known.
      tokenizer: path of the `tokenizer.json`, with which samples and reports
        have text, and losses are in bits per byte; '' takes the one that
        `python -m moe.tokenize` wrote beside the files, if any.
      end_of_text: the id that ends a document; None takes the tokenizer's.
    """

    files: str = ''
    val_files: str = ''
    val_fraction: Annotated[float, Within(0.0, 0.5)] = 0.02
    tokenizer: str = ''
    end_of_text: NaturalInt | None = None

    # Of the files in a folder.
    inside: ClassVar[str] = '*.bin'

    @abc.abstractmethod
    def open(self, path: str, field: str) -> Tokens:
        """Opens one file.

        Args:
          path: path of the file.
          field: the option that names it, for messages.

        Raises:
          ConfigError: for a file of another format.
        """

    @abc.abstractmethod
    def digest(self, path: str) -> str:
        """Returns a hash of a file's size and of samples of its contents."""

    def find(self, pattern: str, field: str) -> list[str]:
        """Returns the files of an option, in their order."""
        if os.path.isdir(pattern):
            pattern = os.path.join(glob.escape(pattern), self.inside)
        return sorted(matching(pattern, field), key=by_number)

    # Whether each file begins with a document.
    whole: ClassVar[bool] = False

    def tokens(self, field: str, end_of_text: int | None) -> Tokens:
        """Returns the tokens of an option's files.

        Args:
          field: name of the option.
          end_of_text: the id that ends a document, if known.
        """
        paths = self.find(getattr(self, field), field)
        parts = [self.open(path, field) for path in paths]
        joined = (
            parts[0] if len(parts) == 1 else Joined(parts, None, self.whole)
        )
        known = joined.document_starts(0, 0) is not None
        if known or end_of_text is None:
            return joined
        return Delimited(joined, end_of_text)

    def find_tokenizer(self):
        """Returns the tokenizer that is named, or that lies beside the files.

        Raises:
          ConfigError: if it cannot be read.
        """
        named = self.tokenizer or self._beside()
        return read_tokenizer(named) if named else None

    def _beside(self) -> str:
        """Returns the path of the tokenizer of a manifest, '' without one."""
        folder = self.files
        if not os.path.isdir(folder):
            folder = os.path.dirname(self.files)
        try:
            with open(os.path.join(folder, MANIFEST)) as file:
                name = json.load(file)['tokenizer']
            return os.path.join(folder, name) if name else ''
        except (OSError, ValueError, KeyError, TypeError):
            return ''

    def load(self, seq_len):
        """Opens the files and splits them."""
        tokenizer, end = self.find_tokenizer(), self.end_of_text
        if end is None and tokenizer and not isinstance(tokenizer, Bytes):
            end = tokenizer.end_of_text
        whole = self.tokens('files', end)
        paths = self.find(self.files, 'files')
        facts: dict[str, Any] = {'files': len(paths)}
        digests = [self.digest(path) for path in paths]
        if self.val_files:
            val_paths = self.find(self.val_files, 'val_files')
            train, val = whole, self.tokens('val_files', end)
            facts['val_files'] = len(val_paths)
            digests += ['val', *map(self.digest, val_paths)]
            check_apart(self, paths, val_paths)
        else:
            train, val = split(whole, self.val_fraction, seq_len)
            digests.append(str(len(train)))
        facts |= {'train_tokens': len(train), 'val_tokens': len(val)}
        fingerprint = hashlib.sha256(''.join(digests).encode()).hexdigest()[:16]
        seen, repeated, share = repeated_documents([train, val])
        of = 'all' if share == 1 else f'a sample of {share:.2g} of the tokens'
        note = (
            f'{repeated:,} of {seen:,} documents ({of}) are there more than '
            'once: validation may have what was trained on'
        )
        notes = (note,) if repeated else ()
        corpus = Corpus(train, val, fingerprint, facts, notes)
        check_length(corpus, seq_len, 'files', self.files)
        return corpus


def check_apart(
    source: TokenFiles, paths: Sequence[str], val_paths: Sequence[str]
) -> None:
    """Refuses a file that is for training and for validation.

    Args:
      source: the source.
      paths: files for training.
      val_paths: files for validation.

    Raises:
      ConfigError: if one is in both.
    """
    both = {os.path.realpath(p) for p in paths}.intersection(
        os.path.realpath(p) for p in val_paths
    )
    if both:
        allowed = f'of other files than val_files ({min(both)} is in both)'
        raise ConfigError('files', source.files, allowed)


def split(
    tokens: Tokens, fraction: float, seq_len: int
) -> tuple[Tokens, Tokens]:
    """Splits tokens at the start of a document: the last ones validate.

    Args:
      tokens: all tokens.
      fraction: share that is for validation.
      seq_len: S; at least one sequence validates.

    Returns:
      Training and validation tokens. Without a start of a document nearby, or
      where they are unknown, the cut is anywhere.
    """
    size = len(tokens)
    border = max(size - max(round(fraction * size), seq_len + 1), 0)
    first = max(border - min(_NEAR, size // 10), 0)
    starts = tokens.document_starts(first, border + 1)
    if starts is not None and len(starts) and starts[-1] > 0:
        border = int(starts[-1])
    return Span(tokens, 0, border), Span(tokens, border, size)
