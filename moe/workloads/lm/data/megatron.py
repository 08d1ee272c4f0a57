"""The data source of Megatron's indexed datasets, `.bin` with `.idx`.

The `.idx`, little-endian: `MMIDIDX\\0\\0`; uint64 version 1; uint8 code of the
dtype; uint64 number of sequences Q; uint64 length of the document index; Q
int32 lengths in tokens; Q int64 offsets in bytes into the `.bin`; the document
index, int64, as positions in the list of sequences. Source: Megatron-LM's
`megatron/core/datasets/indexed_dataset.py`.
"""

import bisect
import dataclasses
import os
import struct
from typing import ClassVar

import numpy as np

from moe.config import ConfigError
from moe.workloads.data_files import sampled_hash
from moe.workloads.lm.data.mapping import Integers
from moe.workloads.lm.data.sources import SOURCES
from moe.workloads.lm.data.token_files import TokenFiles
from moe.workloads.lm.data.tokens import Mapped, Tokens, narrow_dtype

_MAGIC = b'MMIDIDX\0\0'
_HEADER = struct.Struct('<9sQBQQ')
_DTYPES = {
    1: '<u1',
    2: '<i1',
    3: '<i2',
    4: '<i4',
    5: '<i8',
    6: '<f8',
    7: '<f4',
    8: '<u2',
}
# Sequences whose offsets are all checked; of more, evenly spaced ones.
_CHECKED = 2**22
_BLOCK = 2**18


@dataclasses.dataclass(frozen=True)
class Index:
    """What an `.idx` says.

    Attributes:
      stored: dtype of the ids in the `.bin`.
      lengths: tokens of each sequence.
      offsets: bytes before each sequence in the `.bin`.
      documents: positions in the list of sequences at which documents begin,
        and its length at the end.
    """

    stored: str
    lengths: Integers
    offsets: Integers
    documents: Integers


def read_index(path: str) -> Index:
    """Reads an `.idx`, of which only the header is read at once.

    Args:
      path: path of the file.

    Raises:
      ValueError: for another format; it says what the file is.
    """
    size = os.path.getsize(path)
    with open(path, 'rb') as file:
        head = file.read(_HEADER.size)
    if head.startswith(b'TNTIDX\0\0'):
        raise ValueError('is of the older format without MMIDIDX')
    if len(head) < _HEADER.size or not head.startswith(_MAGIC):
        raise ValueError('does not begin with MMIDIDX')
    _, version, code, count, documents = _HEADER.unpack(head)
    if version != 1:
        raise ValueError(f'is of version {version}, not 1')
    if code not in _DTYPES:
        raise ValueError(f'has the unknown dtype code {code}')
    lengths = _HEADER.size
    offsets = lengths + 4 * count
    starts = offsets + 8 * count
    if size < starts + 8 * documents:
        needed = starts + 8 * documents
        raise ValueError(f'has {size} bytes of the {needed} that it needs')
    return Index(
        _DTYPES[code],
        Integers(path, '<i4', lengths, count),
        Integers(path, '<i8', offsets, count),
        Integers(path, '<i8', starts, documents),
    )


@dataclasses.dataclass(frozen=True)
class _Contiguous(Tokens):
    """Sequences that follow each other in the `.bin`, as all writers do."""

    ids: Mapped
    index: Index

    @property
    def dtype(self):
        """Returns the dtype of what is read."""
        return self.ids.dtype

    def __len__(self):
        return len(self.ids)

    def read(self, start, stop):
        """Returns a span of the `.bin`."""
        return self.ids.read(start, stop)

    def document_starts(self, start, stop):
        """Returns the starts of a span by two searches in the index."""
        size = np.dtype(self.index.stored).itemsize
        offsets = self.index.offsets
        low = bisect.bisect_left(offsets, start * size)
        high = bisect.bisect_left(offsets, stop * size, lo=low)
        return _starts(self.index, low, high, lambda i: offsets[i] // size)


class _Gathered(Tokens):
    """Sequences anywhere in the `.bin`, in the order of the index.

    Args:
      path: path of the `.bin`.
      index: what the `.idx` says.
    """

    def __init__(self, path: str, index: Index):
        self._index = index
        self._path = path
        self._ends = np.cumsum(index.lengths.read(0, len(index.lengths)))

    @property
    def dtype(self):
        """Returns the dtype of what is read."""
        return narrow_dtype(np.dtype(self._index.stored).newbyteorder('='))

    def __len__(self):
        return int(self._ends[-1]) if len(self._ends) else 0

    def _start(self, sequence: int) -> int:
        return int(self._ends[sequence - 1]) if sequence else 0

    def read(self, start, stop):
        """Returns a span, sequence by sequence."""
        found = np.empty(stop - start, self.dtype)
        sequence = int(np.searchsorted(self._ends, start, side='right'))
        position = start
        while position < stop:
            first = self._start(sequence)
            high = min(int(self._ends[sequence]), stop)
            ids = Mapped(
                self._path,
                self._index.stored,
                self._index.offsets[sequence],
                self._index.lengths[sequence],
            ).read(position - first, high - first)
            found[position - start : high - start] = ids
            position, sequence = high, sequence + 1
        return found

    def document_starts(self, start, stop):
        """Returns the starts of a span."""
        begins = np.concatenate([[0], self._ends[:-1]])
        low, high = np.searchsorted(begins, [start, stop])
        return _starts(self._index, int(low), int(high), self._start)


def _starts(index: Index, low: int, high: int, start_of) -> np.ndarray:
    """Returns where the documents among some sequences begin."""
    first = bisect.bisect_left(index.documents, low)
    last = bisect.bisect_left(index.documents, high, lo=first)
    sequences = index.documents.read(first, last)
    # An empty document begins where the next one does.
    found = [start_of(int(i)) for i in sequences]
    return np.unique(np.array(found, np.int64))


def _is_contiguous(index: Index) -> bool:
    """Whether each sequence begins where the one before it ends."""
    size, count = np.dtype(index.stored).itemsize, len(index.lengths)
    starts = list(range(0, count, _BLOCK))
    if count > _CHECKED:
        blocks = _CHECKED // _BLOCK
        starts = [i * (count - _BLOCK) // (blocks - 1) for i in range(blocks)]
    if count and index.offsets[0] != 0:
        return False
    for start in starts:
        stop = min(start + _BLOCK + 1, count)
        offsets = index.offsets.read(start, stop)
        lengths = index.lengths.read(start, stop)
        if np.any(offsets[1:] - offsets[:-1] != size * lengths[:-1]):
            return False
    return True


@SOURCES.register('megatron')
@dataclasses.dataclass(frozen=True)
class Megatron(TokenFiles):
    """Indexed datasets of Megatron: `PREFIX.bin` with `PREFIX.idx`.

    `files` names the `.idx`, the `.bin` or the prefix, a glob of them, or a
    folder. Neither is read as a whole.
    """

    whole: ClassVar[bool] = True
    inside: ClassVar[str] = '*.idx'

    def find(self, pattern, field):
        """Returns the `.idx` of each dataset."""
        if not os.path.exists(pattern) and os.path.exists(f'{pattern}.idx'):
            pattern = f'{pattern}.idx'
        found = super().find(pattern, field)
        roots = [os.path.splitext(path) for path in found]
        names = [
            f'{root}.idx' for root, end in roots if end in ('.bin', '.idx')
        ]
        if not names:
            raise self._refuse(field, found[0], 'is neither .idx nor .bin')
        return list(dict.fromkeys(names))

    def open(self, path, field):
        """Opens a dataset by its index."""
        file = f'{path[:-4]}.bin'
        for name in (path, file):
            if not os.path.isfile(name):
                raise self._refuse(field, name, 'is not there')
        try:
            index = read_index(path)
        except ValueError as error:
            raise self._refuse(field, path, str(error)) from None
        count, size = len(index.lengths), os.path.getsize(file)
        item = np.dtype(index.stored).itemsize
        if not count or not size:
            raise self._refuse(field, path, 'has no sequences')
        end = index.offsets[count - 1] + item * index.lengths[count - 1]
        contiguous = _is_contiguous(index)
        if contiguous and end > size:
            what = f'has {size} bytes of the {end} in its index'
            raise self._refuse(field, file, what)
        if contiguous:
            return _Contiguous(
                Mapped(file, index.stored, 0, end // item), index
            )
        offsets = index.offsets.read(0, count)
        ends = offsets + item * index.lengths.read(0, count)
        if offsets.min() < 0 or ends.max() > size:
            what = f'has {size} bytes, fewer than its index says'
            raise self._refuse(field, file, what)
        return _Gathered(file, index)

    def digest(self, path):
        """Returns hashes of samples of both files."""
        return sampled_hash(path) + sampled_hash(f'{path[:-4]}.bin')

    def _refuse(self, field: str, path: str, what: str) -> ConfigError:
        allowed = f"of Megatron's indexed datasets ({path} {what})"
        return ConfigError(field, getattr(self, field), allowed)
