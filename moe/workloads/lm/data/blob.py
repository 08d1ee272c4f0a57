"""Documents of text as files of token ids in the cache.

A blob is a file of ids with a file of the positions, int64, at which documents
begin. Each document ends with the tokenizer's end of text.
"""

import array
import contextlib
import pathlib
from collections.abc import Iterable, Iterator
from typing import IO, Any, NamedTuple

import numpy as np

from moe.workloads.lm.data.tokenizer import Tokenizer
from moe.workloads.lm.data.tokens import Mapped

_BATCH = 2**22  # bytes of text that are encoded at once
PARTS = ('train', 'val')


class Piece(NamedTuple):
    """A document's text, or a part of it.

    Attributes:
      text: UTF-8, without half a character at an end.
      digest: hash of the whole document, at least 8 bytes.
      last: whether the document ends with it.
    """

    text: bytes
    digest: bytes
    last: bool


def validates(digest: bytes, fraction: float) -> bool:
    """Whether a document is for validation, by its contents alone.

    Args:
      digest: its hash, uniform.
      fraction: share of the documents that are.
    """
    return int.from_bytes(digest[:8], 'big') < fraction * 2.0**64


def write(
    folder: pathlib.Path,
    pieces: Iterable[Piece],
    tokenizer: Tokenizer,
    fraction: float | None,
) -> dict[str, Any]:
    """Writes `PART.ids` and `PART.starts` for the parts of `PARTS`.

    Args:
      folder: where to.
      pieces: the documents, those of one next to each other.
      tokenizer: makes the ids.
      fraction: share of the documents that are for validation, by their
        hashes; None writes all of them to `train`.

    Returns:
      JSON: `dtype`, `repeated` (documents that were there before), and for each
      part the numbers of its `tokens` and `documents`.
    """
    dtype = id_dtype(tokenizer.vocab_size)
    seen = array.array('Q')
    with contextlib.ExitStack() as stack:
        parts = {}
        for name in PARTS:
            ids_file, starts_file = (
                stack.enter_context((folder / f'{name}.{kind}').open('wb'))
                for kind in ('ids', 'starts')
            )
            parts[name] = _Part(ids_file, starts_file, dtype)
        for batch in _batches(pieces):
            found = tokenizer.encode_all([piece.text for piece in batch])
            for piece, ids in zip(batch, found, strict=True):
                val = fraction is not None and validates(piece.digest, fraction)
                parts['val' if val else 'train'].add(
                    ids, tokenizer.end_of_text, piece.last
                )
                if piece.last:
                    seen.append(int.from_bytes(piece.digest[:8], 'big'))
    repeated = len(seen) - len(np.unique(np.array(seen, np.uint64)))
    counts = {
        name: {'tokens': part.tokens, 'documents': part.documents}
        for name, part in parts.items()
    }
    return {'dtype': dtype.str, 'repeated': int(repeated), **counts}


def open_part(folder: pathlib.Path, facts: dict[str, Any], part: str) -> Mapped:
    """Opens a part that `write` wrote.

    Args:
      folder: where it lies.
      facts: what `write` returned.
      part: one of `PARTS`.
    """
    return Mapped(
        str(folder / f'{part}.ids'),
        facts['dtype'],
        0,
        facts[part]['tokens'],
        str(folder / f'{part}.starts') if facts[part]['documents'] else '',
    )


def id_dtype(vocab_size: int) -> np.dtype:
    """Returns the smallest little-endian dtype that files have for ids."""
    for name, size in (('<u1', 2**8), ('<u2', 2**16)):
        if vocab_size <= size:
            return np.dtype(name)
    return np.dtype('<i4')


class _Part:
    """Files of ids and of starts that are written."""

    def __init__(self, ids: IO[bytes], starts: IO[bytes], dtype: np.dtype):
        self._ids, self._starts, self._dtype = ids, starts, dtype
        self._inside = False
        self.tokens = self.documents = 0

    def add(self, ids: np.ndarray, end: int | None, last: bool) -> None:
        """Adds a piece of a document."""
        if not self._inside:
            self._starts.write(np.array(self.tokens, '<i8').tobytes())
            self.documents += 1
        self._ids.write(ids.astype(self._dtype).tobytes())
        self.tokens += len(ids)
        if last and end is not None:
            self._ids.write(np.array(end, self._dtype).tobytes())
            self.tokens += 1
        self._inside = not last


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
