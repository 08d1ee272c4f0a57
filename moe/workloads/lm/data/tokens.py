"""Token ids where they lie: in arrays, mapped files, several as one.

N tokens. Nothing is read before it is asked for.
"""

import abc
import dataclasses
import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from moe.workloads.lm.data.mapping import Integers, mapped, within

# Ids of these types go to a device as they are; others are made int32.
_NARROW = ('uint8', 'int8', 'uint16', 'int16', 'int32')
_BLOCK = 2**20  # tokens that are looked at, at once
LOOKED_AT = 2**22  # tokens in which the largest id is looked for


class Tokens(abc.ABC):
    """A sequence of N token ids, of which any span can be read."""

    @property
    @abc.abstractmethod
    def dtype(self) -> np.dtype:
        """Returns the dtype of what is read, of at most 32 bits."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """Returns N."""

    @abc.abstractmethod
    def read(self, start: int, stop: int) -> np.ndarray:
        """Returns the ids of the positions `start <= i < stop <= N`."""

    def document_starts(self, start: int, stop: int) -> np.ndarray | None:
        """Returns the positions in `start <= i < stop` that begin a document.

        Ascending, int64; None if the documents are not known.
        """
        return None

    def __getitem__(self, span: slice) -> np.ndarray:
        start, stop, step = span.indices(len(self))
        assert step == 1, span
        return self.read(start, max(stop, start))


def narrow(ids: np.ndarray) -> np.ndarray:
    """Returns ids as a type of at most 32 bits; -1 for one beyond them.

    Args:
      ids: integers, or floats that are integers.
    """
    if ids.dtype.name in _NARROW:
        return ids
    inside = (ids >= 0) & (ids < 2**31)
    if ids.dtype.kind == 'f':
        inside &= ids == np.floor(ids)
    found = np.where(inside, ids, 0).astype(np.int32)
    found[~inside] = -1
    return found


def narrow_dtype(dtype: Any) -> np.dtype:
    """Returns the dtype of `narrow`."""
    name = np.dtype(dtype).name
    return np.dtype(name if name in _NARROW else 'int32')


@dataclasses.dataclass(frozen=True)
class InMemory(Tokens):
    """An array [N] of ids.

    Attributes:
      array: the ids, any integers; it may be a memory map.
      starts: ascending positions at which documents begin; None if unknown.
    """

    array: np.ndarray
    starts: Sequence[int] | np.ndarray | None = None

    @property
    def dtype(self):
        """Returns the dtype of what is read."""
        return narrow_dtype(self.array.dtype)

    def __len__(self):
        return len(self.array)

    def read(self, start, stop):
        """Returns a span of the array."""
        return narrow(self.array[start:stop])

    def document_starts(self, start, stop):
        """Returns the known starts of a span."""
        return None if self.starts is None else within(self.starts, start, stop)


@dataclasses.dataclass(frozen=True)
class Mapped(Tokens):
    """Ids in a file, mapped while they are read.

    Attributes:
      path: path of the file.
      stored: dtype of the file, with its byte order.
      offset: bytes before the first id.
      count: N.
      starts: file of the positions at which documents begin, ascending int64;
        '' if unknown.
    """

    path: str
    stored: str
    offset: int
    count: int
    starts: str = ''

    @property
    def dtype(self):
        """Returns the dtype of what is read."""
        return narrow_dtype(np.dtype(self.stored).newbyteorder('='))

    def __len__(self):
        return self.count

    def read(self, start, stop):
        """Returns a span of the file, copied."""
        size = np.dtype(self.stored).itemsize
        first = self.offset + start * size
        if start == stop:  # perhaps of an empty file
            return np.zeros(0, self.dtype)
        raw = mapped(self.path)[first : first + (stop - start) * size]
        ids = np.frombuffer(raw, self.stored)
        return narrow(ids.astype(ids.dtype.newbyteorder('=')))

    def document_starts(self, start, stop):
        """Returns the starts of a span from their file."""
        if not self.starts:
            return None
        count = os.path.getsize(self.starts) // 8
        return within(Integers(self.starts, '<i8', 0, count), start, stop)


class Joined(Tokens):
    """Sequences of ids, one after another, perhaps with an id between them.

    Args:
      parts: the sequences, at least one.
      separator: an id between each two of them; None for none.
      whole: whether each begins a document; else the cuts between them are
        anywhere.
    """

    def __init__(
        self,
        parts: Sequence[Tokens],
        separator: int | None = None,
        whole: bool = True,
    ):
        self._parts, self._whole = list(parts), whole
        inside = (part.document_starts(0, 0) for part in parts)
        self._known = whole or all(found is not None for found in inside)
        self._between = [] if separator is None else [separator]
        sizes = np.array([len(part) for part in parts], np.int64)
        self._ends = np.cumsum(sizes + len(self._between))
        self._size = int(self._ends[-1]) - len(self._between)
        self._starts = self._ends - sizes - len(self._between)
        self._dtype = np.result_type(*(part.dtype for part in parts))
        if self._dtype.itemsize > 4:
            self._dtype = np.dtype(np.int32)

    @property
    def dtype(self):
        """Returns the smallest that holds those of all parts."""
        return self._dtype

    def __len__(self):
        return self._size

    def _overlapping(self, start: int, stop: int):
        """Yields each part with its start, and the span of it, not empty."""
        index = int(np.searchsorted(self._ends, start, side='right'))
        while index < len(self._parts) and self._starts[index] < stop:
            first = int(self._starts[index])
            yield (
                index,
                first,
                max(start, first),
                min(stop, first + len(self._parts[index])),
            )
            index += 1

    def read(self, start, stop):
        """Returns a span, joined from the parts that it touches."""
        found, position = np.empty(stop - start, self.dtype), start
        for index, first, low, high in self._overlapping(start, stop):
            if low > position:
                found[position - start : low - start] = self._between[0]
            if high > low:
                ids = self._parts[index].read(low - first, high - first)
                found[low - start : high - start] = ids
            position = max(high, low)
        found[position - start :] = self._between or 0
        return found

    def document_starts(self, start, stop):
        """Returns those of the parts, and the starts of whole parts."""
        if not self._known:
            return None
        found = []
        for index, first, low, high in self._overlapping(start, stop):
            inside = self._parts[index].document_starts(
                low - first, max(high, low) - first
            )
            more = [] if inside is None else list(inside + first)
            if self._whole and low == first and more[:1] != [first]:
                more = [first, *more]
            found += more
        return np.unique(np.array(found, np.int64))


@dataclasses.dataclass(frozen=True)
class Span(Tokens):
    """A span of other tokens.

    Attributes:
      tokens: the whole.
      start: first position.
      stop: position after the last.
    """

    tokens: Tokens
    start: int
    stop: int

    @property
    def dtype(self):
        """Returns that of the whole."""
        return self.tokens.dtype

    def __len__(self):
        return max(self.stop - self.start, 0)

    def read(self, start, stop):
        """Returns a span of the span."""
        return self.tokens.read(self.start + start, self.start + stop)

    def document_starts(self, start, stop):
        """Returns those of the whole, from the span's start."""
        found = self.tokens.document_starts(
            self.start + start, self.start + stop
        )
        return None if found is None else found - self.start


@dataclasses.dataclass(frozen=True)
class Delimited(Tokens):
    """Tokens in which an id ends each document.

    Attributes:
      tokens: the ids.
      end_of_text: the id that is the last of each document.
    """

    tokens: Tokens
    end_of_text: int

    @property
    def dtype(self):
        """Returns that of the ids."""
        return self.tokens.dtype

    def __len__(self):
        return len(self.tokens)

    def read(self, start, stop):
        """Returns a span."""
        return self.tokens.read(start, stop)

    def document_starts(self, start, stop):
        """Returns 0 and the positions after an end of text."""
        first = max(start - 1, 0)
        before = self.tokens.read(first, max(stop - 1, first))
        found = np.flatnonzero(before == self.end_of_text) + first + 1
        return np.concatenate(
            [np.zeros(int(start == 0 < stop), np.int64), found]
        )


def as_tokens(ids: Tokens | np.ndarray) -> Tokens:
    """Returns an array [N] of ids as `Tokens`, which stay as they are."""
    return ids if isinstance(ids, Tokens) else InMemory(ids)


def repeated_documents(
    parts: Sequence[Tokens], span: int = 2**16, spans: int = 64
) -> tuple[int, int, float]:
    """Looks for documents that are there more than once.

    Args:
      parts: the tokens; those of unknown documents are left out.
      span: tokens that are looked at, at once.
      spans: of how many evenly spaced spans of each part, at most.

    Returns:
      How many documents were looked at, those that lie within a span; how many
      of them are like an earlier one; and the share of the tokens that the
      spans have.
    """
    found: dict[tuple[int, int], bytes] = {}  # by part and position
    sizes = [len(tokens) for tokens in parts]
    looked_at = sum(min(size, span * spans) for size in sizes)
    for part, tokens in enumerate(parts):
        last = max(len(tokens) - span, 0)
        count = min(spans, -(-len(tokens) // span))
        for i in range(count):
            start = i * last // max(count - 1, 1)
            stop = min(start + span, len(tokens))
            begins = tokens.document_starts(start, stop)
            if begins is None:
                break
            ids = tokens.read(start, stop).astype('<i4')
            ends = [*begins[1:], *([stop] if stop == len(tokens) else [])]
            for low, high in zip(begins, ends, strict=False):
                text = ids[low - start : high - start].tobytes()
                digest = hashlib.blake2b(text, digest_size=16).digest()
                found[part, int(low)] = digest
    share = looked_at / max(sum(sizes), 1)
    return len(found), len(found) - len({*found.values()}), share


def largest_id(
    tokens: Tokens, at_most: int | None = None
) -> tuple[int, int, int]:
    """Returns the largest id of all tokens, or of blocks of them.

    Args:
      tokens: the tokens.
      at_most: how many are looked at, `LOOKED_AT` by default; of more, evenly
        spaced blocks.

    Returns:
      The smallest id, the largest, and the number of tokens looked at.
    """
    size, block = len(tokens), _BLOCK
    at_most = at_most or LOOKED_AT
    starts = list(range(0, size, block))
    if size > at_most:
        block = min(block, max(at_most // 256, 1))
        count = at_most // block
        starts = [i * (size - block) // max(count - 1, 1) for i in range(count)]
    least, largest, seen = 0, 0, 0
    for start in starts:
        ids = tokens.read(start, min(start + block, size))
        seen += len(ids)
        if len(ids):
            least = min(least, int(ids.min()))
            largest = max(largest, int(ids.max()))
    return least, largest, seen
