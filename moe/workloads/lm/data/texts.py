"""What sources of text share: files, identity, tokens made once."""

import abc
import contextlib
import dataclasses
import glob
import hashlib
import io
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import numpy as np

from moe import progress
from moe.config import ConfigError, Within
from moe.workloads import data_files
from moe.workloads.data_cache import identity, kept, key_of
from moe.workloads.data_files import UNREADABLE, binary_kind, matching
from moe.workloads.lm.data import blob
from moe.workloads.lm.data.blob import Piece
from moe.workloads.lm.data.sources import Corpus, check_length
from moe.workloads.lm.data.token_files import Tokenized
from moe.workloads.lm.data.tokenizer import Bytes, Tokenizer, read_tokenizer
from moe.workloads.lm.data.tokens import InMemory, Span, Tokens

BLOCK = 2**20  # bytes that are read at once
IN_MEMORY = 2**26  # bytes of text that are read at the start, without a cache
_LINE = 2**16  # tokens in which an end of line or of a document is looked for


@dataclasses.dataclass(frozen=True)
class Text:
    """A file: its path, its size decompressed, the hash of its bytes."""

    path: str
    size: int
    digest: bytes


@dataclasses.dataclass(frozen=True)
class Texts(Tokenized, abc.ABC):
    """What sources of text share: files, identity, tokens in the cache."""

    files: str = ''
    val_fraction: Annotated[float, Within(0.0, 0.5)] = 0.02
    tokenizer: str = ''
    split: Literal['bytes', 'documents'] = 'bytes'

    # Of the bytes themselves; with a tokenizer it says how many a token has.
    @property
    def bytes_per_token(self) -> float | None:  # type: ignore[override]
        """Returns 1 for bytes, None for tokens of a tokenizer."""
        return None if self.tokenizer else 1.0

    def find_tokenizer(self) -> Tokenizer:
        """Returns the tokenizer, that of bytes if none is named."""
        return read_tokenizer(self.tokenizer)

    @abc.abstractmethod
    def documents(self, text: Text) -> Iterator[Piece]:
        """Yields the documents of a file."""

    def names(self) -> list[str]:
        """Returns the paths of the files."""
        pattern = self.files
        if os.path.isdir(pattern):
            pattern = os.path.join(glob.escape(pattern), '**', '*')
        return matching(pattern, 'files')

    def _texts(self) -> tuple[list[Text], int]:
        """Returns the files by their hashes, and how many were repeated."""
        names = self.names()
        sizes = sum(map(os.path.getsize, names))
        if sizes > IN_MEMORY:

            def look(folder):
                with progress.shown('reading', len(names), 'files') as reach:
                    rows = []
                    for i, name in enumerate(names):
                        text = self._look_at(name)
                        rows.append([text.size, text.digest.hex()])
                        reach(i + 1)
                return {'rows': rows}

            _, facts = kept(key_of('digests', 1, identity(names)), look)
            found = [
                Text(name, size, bytes.fromhex(digest))
                for name, (size, digest) in zip(
                    names, facts['rows'], strict=True
                )
            ]
        else:
            found = list(map(self._look_at, names))
        found = [text for text in found if text.size]
        texts = {text.digest: text for text in found}
        return [texts[d] for d in sorted(texts)], len(found) - len(texts)

    def _look_at(self, path: str) -> Text:
        """Reads a file without keeping it; refuses what is no text."""
        digest, size = hashlib.sha256(), 0
        with self.opened(path) as stream:
            while block := stream.read(BLOCK):
                kind = None if size else binary_kind(block)
                if b'\0' in block:
                    kind = kind or 'binary: it has NUL bytes'
                if kind:
                    raise self.refuse(path, kind)
                size += len(block)
                digest.update(block)
        return Text(path, size, digest.digest())

    def _blob(
        self,
        texts: Sequence[Text],
        tokenizer: Tokenizer,
        fraction: float | None,
    ) -> tuple[pathlib.Path, dict[str, Any]]:
        """Returns the tokens of all documents, made once, and facts of them.

        See `moe.workloads.lm.data.blob.write` for the fraction.
        """
        digests = [text.digest.hex() for text in texts]
        made_of = [tokenizer.digest, fraction, self.read_as(), digests]
        total = sum(text.size for text in texts)

        def read(reach):
            done = 0
            for text in texts:
                for piece in self.documents(text):
                    yield piece
                    done += len(piece.text)
                    reach(done)

        def build(folder):
            with progress.shown('making tokens', total, 'bytes') as reach:
                return blob.write(folder, read(reach), tokenizer, fraction)

        return kept(key_of('tokens', 1, made_of), build)

    def read_as(self) -> str:
        """Returns the options that say what is a document in a file."""
        return ''

    def _split(
        self, tokens: Tokens, seq_len: int, tokenizer: Tokenizer
    ) -> tuple[Tokens, Tokens, str]:
        """Splits a stream by bytes; returns the parts and a fingerprint."""
        least = max(round(self.val_fraction * len(tokens)), seq_len + 1)
        border = _border(tokens, least, isinstance(tokenizer, Bytes))
        first, rest = 0, border
        if isinstance(tokenizer, Bytes):  # zero bytes stand between documents
            ids = tokens.read(max(border - 1, 0), min(border + 1, len(tokens)))
            if border and ids[0] == 0:
                first = 1
            elif len(ids) and border < len(tokens) and ids[-1] == 0:
                rest = border + 1
        return (
            Span(tokens, rest, len(tokens)),
            Span(tokens, 0, border - first),
            str(border),
        )

    def load(self, seq_len):
        """Opens the files and splits them."""
        tokenizer = self.find_tokenizer()
        texts, repeated = self._texts()
        facts: dict[str, Any] = {'files': len(texts)}
        if self.split == 'documents':
            fraction = self.val_fraction
            folder, made = self._blob(texts, tokenizer, fraction)
            # Of few documents none may be there: at least one sequence is.
            while made['val']['tokens'] <= seq_len and fraction < 0.5:
                fraction = min(2 * max(fraction, 0.01), 0.5)
                folder, made = self._blob(texts, tokenizer, fraction)
            train: Tokens = blob.open_part(folder, made, 'train')
            val: Tokens = blob.open_part(folder, made, 'val')
            more = f'documents {fraction}'
        else:
            tokens, made = self.stream(texts, tokenizer)
            train, val, more = self._split(tokens, seq_len, tokenizer)
        unit = 'bytes' if isinstance(tokenizer, Bytes) else 'tokens'
        facts |= {f'train_{unit}': len(train), f'val_{unit}': len(val)}
        if repeated:
            facts['repeated_files_left_out'] = repeated
        if made.get('repeated'):
            facts['repeated_documents'] = made['repeated']
        digest = hashlib.sha256(b''.join(text.digest for text in texts))
        more += self.read_as()
        if self.tokenizer:
            more += tokenizer.digest
        digest.update(more.encode())
        corpus = Corpus(train, val, digest.hexdigest()[:16], facts)
        check_length(corpus, seq_len, 'files', self.files)
        return corpus

    def stream(
        self, texts: Sequence[Text], tokenizer: Tokenizer
    ) -> tuple[Tokens, dict[str, Any]]:
        """Returns all documents one after another, and facts of the blob."""
        if not texts:
            return InMemory(np.zeros(0, np.uint8)), {}
        folder, made = self._blob(texts, tokenizer, None)
        tokens: Tokens = blob.open_part(folder, made, 'train')
        if isinstance(tokenizer, Bytes):  # none after the last document
            tokens = Span(tokens, 0, len(tokens) - 1)
        return tokens, made

    @contextlib.contextmanager
    def opened(self, path: str) -> Iterator[io.BufferedReader]:
        """Opens a file, decompressed; refuses one that cannot be read."""
        try:
            with data_files.opened(path) as stream:
                yield stream
        except UNREADABLE as error:
            raise self.refuse(path, f'no file to read: {error}') from None

    def refuse(self, path: str, what: str) -> ConfigError:
        """Returns the error about a file."""
        return ConfigError('files', self.files, f'of texts ({path} is {what})')


def _border(tokens: Tokens, least: int, lines: bool) -> int:
    """Returns the first end at or after some tokens.

    Args:
      tokens: all tokens.
      least: how many come before it at least.
      lines: whether they are bytes, of which the end of a line or a document
        is an end; else the end of a document is one.
    """
    size = len(tokens)
    last = min(least + min(_LINE, size // 10), size)
    if least >= size:
        return size
    if lines:
        after = tokens.read(least - 1, last)
        ends = np.flatnonzero((after == ord('\n')) | (after == 0))
    else:
        starts = tokens.document_starts(least, last)
        ends = (starts if starts is not None else np.zeros(0, int)) - least
    return min(least + (int(ends[0]) if len(ends) else 0), size)
