"""The data source of text files, whose bytes are the tokens."""

import contextlib
import dataclasses
import hashlib
import io
import os
import pathlib
import sysconfig
from collections.abc import Iterator
from typing import Annotated, ClassVar

import numpy as np

from moe.config import ConfigError, Within
from moe.workloads.data_files import (
    UNREADABLE,
    binary_kind,
    check_memory,
    matching,
    opened,
)
from moe.workloads.lm.sources import SOURCES, Corpus, Source, check_length

_SEPARATOR = b'\0'
_BLOCK = 2**20  # bytes that are read at once
_LINE = 2**16  # bytes in which an end of line is looked for
_NOT_PROSE = {
    '__pycache__',
    'dist-packages',
    'encodings',
    'idlelib',
    'pydoc_data',
    'site-packages',
    'test',
    'tests',
}


@SOURCES.register('text')
@dataclasses.dataclass(frozen=True)
class TextFiles(Source):
    """Bytes of text files, one file after another with a zero byte between.

    Without `files` it is the source code of Python's standard library. Files
    are decompressed, and one that is there several times is read once. They
    are in the order of their contents' hashes, and the first bytes are for
    validation: names, folders and the order of a listing do not matter.

    Attributes:
      files: path or glob of text files; '' is Python's standard library.
      val_fraction: share of the bytes that are for validation, at least one
        sequence; the file that lies on the border is cut at an end of line.
    """

    bytes_per_token: ClassVar[float] = 1.0

    files: str = ''
    val_fraction: Annotated[float, Within(0.0, 0.5)] = 0.02

    @property
    def vocab_size(self) -> int:
        """Returns 256, the number of values of a byte."""
        return 256

    def load(self, seq_len):
        """Reads the files and splits them."""
        texts, repeated = self._texts()
        size = sum(text.size + 1 for text in texts)
        check_memory(size, 'files', self.files)
        tokens = np.zeros(max(size - 1, 0), np.uint8)
        start = 0
        for text in texts:
            self._read(text, tokens[start : start + text.size])
            start += text.size + 1
        least = max(round(self.val_fraction * len(tokens)), seq_len + 1)
        border = _border(tokens, least)
        val, train = tokens[:border], tokens[border:]
        if border and val[-1] == 0:  # a zero byte stands between files alone
            val = val[:-1]
        elif len(train) and train[0] == 0:
            train = train[1:]
        digest = hashlib.sha256(b''.join(text.digest for text in texts))
        digest.update(str(border).encode())
        facts = {
            'files': len(texts),
            'train_bytes': len(train),
            'val_bytes': len(val),
        }
        if repeated:
            facts['repeated_files_left_out'] = repeated
        corpus = Corpus(train, val, digest.hexdigest()[:16], facts)
        check_length(corpus, seq_len, 'files', self.files)
        return corpus

    def _texts(self) -> tuple[list['_Text'], int]:
        """Returns the texts by their hashes, and how many were repeated."""
        names = matching(self.files, 'files') if self.files else _library()
        check_memory(sum(map(os.path.getsize, names)), 'files', self.files)
        found = [text for text in map(self._look_at, names) if text.size]
        texts = {text.digest: text for text in found}
        return [texts[d] for d in sorted(texts)], len(found) - len(texts)

    def _look_at(self, path: str) -> '_Text':
        """Reads a file without keeping it; refuses what is no text."""
        digest, size = hashlib.sha256(), 0
        with self._opened(path) as stream:
            while block := stream.read(_BLOCK):
                kind = None if size else binary_kind(block)
                if b'\0' in block:
                    kind = kind or 'binary: it has NUL bytes'
                if kind:
                    raise self._refuse(path, kind)
                size += len(block)
                check_memory(size, 'files', self.files)
                digest.update(block)
        return _Text(path, size, digest.digest())

    def _read(self, text: '_Text', out: np.ndarray) -> None:
        """Reads the bytes of a file into an array [size]."""
        with self._opened(text.path) as stream:
            if stream.readinto(out.data) != text.size or stream.read(1):
                raise self._refuse(text.path, 'being written')

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[io.BufferedReader]:
        try:
            with opened(path) as stream:
                yield stream
        except UNREADABLE as error:
            raise self._refuse(path, f'no file to read: {error}') from None

    def _refuse(self, path: str, what: str) -> ConfigError:
        return ConfigError('files', self.files, f'of texts ({path} is {what})')

    def encode(self, text):
        """Returns the bytes of UTF-8."""
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def decode(self, ids):
        """Returns the text, with a mark for bytes that are not UTF-8."""
        text = bytes(np.asarray(ids, np.uint8)).decode(errors='replace')
        return text.replace(_SEPARATOR.decode(), '\n')

    def pieces(self, ids):
        """Returns the character of each byte, '' for one without a glyph."""
        shown = lambda c: 32 <= c < 127 or chr(c) in '\t\n'
        return [chr(c) if shown(c) else '' for c in ids]


@dataclasses.dataclass(frozen=True)
class _Text:
    """A file: its path, its size decompressed, the hash of its bytes."""

    path: str
    size: int
    digest: bytes


def _library() -> list[str]:
    root = pathlib.Path(sysconfig.get_paths()['stdlib'])
    return [
        str(path)
        for path in root.rglob('*.py')
        if path.is_file() and not _NOT_PROSE & {*path.relative_to(root).parts}
    ]


def _border(tokens: np.ndarray, least: int) -> int:
    """Returns the end of the first line or file at or after some bytes."""
    last = least + min(_LINE, len(tokens) // 10)
    after = tokens[least - 1 : last]
    ends = np.flatnonzero((after == ord('\n')) | (after == 0))
    return min(least + (int(ends[0]) if len(ends) else 0), len(tokens))
