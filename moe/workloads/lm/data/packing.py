"""Windows that know their documents: cut where they fall, or best-fit packed.

S tokens a sequence, W = S + 1 tokens a window, D documents, R windows.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from moe import progress
from moe.config import ConfigError
from moe.workloads.data_cache import kept, key_of
from moe.workloads.lm.data.mapping import Integers
from moe.workloads.lm.data.tokens import Tokens

_BLOCK = 2**22  # tokens whose documents are looked for at once


class Packed(NamedTuple):
    """Windows of several documents.

    Attributes:
      tokens: ids [..., W].
      segments: number of each token's document in its window, from 1 on,
        int32 [..., W]; 0 for padding.
    """

    tokens: Any
    segments: Any


class CutWindows:
    """Windows of consecutive tokens, with the documents in them.

    Args:
      tokens: the tokens, of known documents.
      length: S; consecutive windows share a token.
    """

    def __init__(self, tokens: Tokens, length: int):
        self._tokens, self._length = tokens, length

    def __len__(self) -> int:
        return -(-(len(self._tokens) - 1) // self._length)

    def __getitem__(self, index: int) -> Packed:
        start = int(index) * self._length
        stop = min(start + self._length + 1, len(self._tokens))
        ids = self._tokens.read(start, stop)
        found = self._tokens.document_starts(start + 1, stop)
        assert found is not None
        begins = np.zeros(len(ids), np.int32)
        begins[0], begins[found - start] = 1, 1
        segments = np.cumsum(begins, dtype=np.int32)
        return _padded(ids, segments, self._length + 1)


class BestFitWindows:
    """Windows of whole documents, and of pieces of those that are too long.

    A document longer than W is cut into pieces of W tokens, each of which
    shares a token with the next. Pieces are packed by best-fit decreasing: the
    longest first, each into the fullest window that has room for it. Source:
    Ding et al., arXiv 2404.10830. The plan is made once and kept in the cache.

    Args:
      tokens: the tokens, of known documents.
      length: S.
      fingerprint: identifies the tokens.
    """

    def __init__(self, tokens: Tokens, length: int, fingerprint: str):
        self._tokens, self._length = tokens, length
        key = key_of('best fit', 1, fingerprint, len(tokens), length)
        folder, facts = kept(key, self._plan)
        file = lambda name, count: Integers(str(folder / name), '<i8', 0, count)
        self._starts = file('starts', facts['pieces'])
        self._sizes = file('sizes', facts['pieces'])
        self._ends = file('ends', facts['windows'])

    def _plan(self, folder: pathlib.Path) -> dict[str, int]:
        starts, sizes = pieces(self._tokens, self._length)
        window = best_fit(sizes, self._length + 1)
        count = int(window.max(initial=-1)) + 1
        order = np.argsort(window, kind='stable')
        ends = np.cumsum(np.bincount(window, minlength=count))
        for name, values in (
            ('starts', starts[order]),
            ('sizes', sizes[order]),
            ('ends', ends),
        ):
            values.astype('<i8').tofile(folder / name)
        return {'pieces': len(sizes), 'windows': count}

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Packed:
        index = int(index)
        first = self._ends[index - 1] if index else 0
        ids, segments = [], []
        for i in range(first, self._ends[index]):
            start, size = self._starts[i], self._sizes[i]
            ids.append(self._tokens.read(start, start + size))
            segments.append(np.full(size, len(ids), np.int32))
        return _padded(
            np.concatenate(ids), np.concatenate(segments), self._length + 1
        )

    def padding(self) -> float:
        """Returns the share of the positions that are padding."""
        tokens = 0
        for start in range(0, len(self._sizes), _BLOCK):
            tokens += int(self._sizes[start : start + _BLOCK].sum())
        return 1 - tokens / (len(self) * (self._length + 1))


PACKINGS: dict[str, Callable[..., Any]] = {
    'documents': lambda tokens, length, fingerprint: CutWindows(tokens, length),
    'best_fit': BestFitWindows,
}


def check_documents(tokens: Tokens, packing: str) -> None:
    """Refuses tokens whose documents are not known.

    Raises:
      ConfigError: with what makes them known.
    """
    if tokens.document_starts(0, 0) is None:
        allowed = (
            "'stream' for data without documents (data.source.end_of_text is "
            'the id that ends one)'
        )
        raise ConfigError('config.data.packing', packing, allowed)


def pieces(tokens: Tokens, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns where pieces of documents begin, and how long they are, int64.

    Documents of a single token, which have no target, are left out.

    Args:
      tokens: the tokens, of known documents.
      length: S.
    """
    starts = []
    with progress.shown('documents', len(tokens), 'tokens') as reach:
        for start in range(0, len(tokens), _BLOCK):
            stop = min(start + _BLOCK, len(tokens))
            starts.append(tokens.document_starts(start, stop))
            reach(stop)
    first = np.unique(np.concatenate([[0], *starts])).astype(np.int64)
    sizes = np.diff(np.append(first, len(tokens)))
    first, sizes = first[sizes > 1], sizes[sizes > 1]
    counts = -(-(sizes - 1) // length)  # of targets
    document = np.repeat(np.arange(len(first)), counts)
    begins = np.cumsum(counts) - counts
    offset = length * (np.arange(len(document)) - begins[document])
    left = sizes[document] - offset
    return first[document] + offset, np.minimum(left, length + 1)


def best_fit(sizes: np.ndarray, room: int) -> np.ndarray:
    """Packs pieces by best-fit decreasing.

    Args:
      sizes: of the pieces, each at most `room`.
      room: size of a window.

    Returns:
      The window of each piece, int64, numbered as they are opened.
    """
    window = np.empty(len(sizes), np.int64)
    open_: list[list[int]] = [[] for _ in range(room + 1)]  # by room left
    there = 0  # bit r: a window with room r is open
    count = 0
    order = np.argsort(-sizes, kind='stable')
    for index, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        fitting = there >> size
        if fitting:
            left = size + (fitting & -fitting).bit_length() - 1
            chosen = open_[left].pop()
            if not open_[left]:
                there &= ~(1 << left)
        else:
            left, chosen = room, count
            count += 1
        window[index] = chosen
        left -= size
        if left > 1:  # a document has two tokens at least
            open_[left].append(chosen)
            there |= 1 << left
    return window


def _padded(ids: np.ndarray, segments: np.ndarray, size: int) -> Packed:
    missing = size - len(ids)
    return Packed(np.pad(ids, (0, missing)), np.pad(segments, (0, missing)))


@dataclasses.dataclass(frozen=True)
class Evenly:
    """Some of the windows, evenly spaced.

    Attributes:
      windows: all windows.
      count: how many; 0 for all.
    """

    windows: Any
    count: int

    def __len__(self) -> int:
        size = len(self.windows)
        return min(self.count, size) if self.count else size

    def __getitem__(self, index: int) -> Any:
        return self.windows[index * len(self.windows) // len(self)]
