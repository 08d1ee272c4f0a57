"""The data source of ArrayRecord files whose records are documents of ids."""

import bisect
import dataclasses
import functools
import os
from typing import Any, ClassVar, Literal

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from moe import progress
from moe.config import ConfigError
from moe.workloads.data_cache import kept, key_of
from moe.workloads.data_files import sampled_hash
from moe.workloads.lm.data.mapping import Integers, within
from moe.workloads.lm.data.record_sizes import footer_sizes
from moe.workloads.lm.data.sources import SOURCES
from moe.workloads.lm.data.token_files import TokenFiles
from moe.workloads.lm.data.tokens import Tokens, narrow, narrow_dtype

_OPEN = 64  # files that are open at once
_MANY = 2**12  # records that are read at once


@dataclasses.dataclass(frozen=True)
class _Records(Tokens):
    """The records of a file, one after another.

    Attributes:
      path: path of the file.
      stored: dtype of the ids in a record.
      ends: positions after the last id of each record, ascending.
    """

    path: str
    stored: str
    ends: Integers

    @property
    def dtype(self):
        """Returns the dtype of what is read."""
        return narrow_dtype(np.dtype(self.stored).newbyteorder('='))

    def __len__(self):
        return self.ends[-1] if len(self.ends) else 0

    def read(self, start, stop):
        """Returns a span, of the records that it touches."""
        if start == stop:
            return np.zeros(0, self.dtype)
        first = bisect.bisect_right(self.ends, start)
        last = bisect.bisect_left(self.ends, stop, lo=first)
        # Together: each call looks for its place in the file.
        data = b''.join(_opened(self.path).read(first, last + 1))
        ids = np.frombuffer(data, self.stored)
        before = self.ends[first - 1] if first else 0
        ids = ids[start - before : stop - before]
        return narrow(ids.astype(ids.dtype.newbyteorder('=')))

    def document_starts(self, start, stop):
        """Returns where records begin that are not empty."""
        first = np.zeros(int(start == 0 < min(stop, len(self))), np.int64)
        found = within(self.ends, max(start, 1), min(stop, len(self)))
        return np.unique(np.concatenate([first, found]))


@SOURCES.register('array_record')
@dataclasses.dataclass(frozen=True)
class ArrayRecord(TokenFiles):
    """ArrayRecord files, each record the ids of a document, little-endian.

    They are written with `group_size:1`, as grain reads them. The lengths of
    the documents come from the files' footers; those of Zstandard need
    Python 3.14 or the package `zstandard`, without which the records are read
    once, and their lengths kept.

    Attributes:
      dtype: dtype of the ids.
    """

    dtype: Literal['uint8', 'uint16', 'uint32', 'int32', 'int64'] = 'uint16'

    whole: ClassVar[bool] = True
    inside: ClassVar[str] = '*array_record*'

    def open(self, path, field):
        """Opens a file; its lengths are kept in the cache."""
        stored = np.dtype(self.dtype).newbyteorder('<').str
        key = key_of('record sizes', 1, self.digest(path))
        build = functools.partial(self._write_ends, path, field)
        try:
            folder, facts = kept(key, build)
        except (ValueError, IndexError, RuntimeError, OSError) as error:
            raise self._refuse(field, path, str(error)) from None
        ends = str(folder / 'ends')
        if facts['records'] == 0:
            raise self._refuse(field, path, 'has no records')
        return _Records(
            path, stored, Integers(ends, '<i8', 0, facts['records'])
        )

    def _write_ends(self, path: str, field: str, folder) -> dict[str, Any]:
        sizes = footer_sizes(path)
        if sizes is None:
            sizes = self._read_sizes(path, field)
        item = np.dtype(self.dtype).itemsize
        if np.any(sizes % item):
            what = f'has records that are no ids of {self.dtype}'
            raise self._refuse(field, path, what)
        np.cumsum(sizes // item).astype('<i8').tofile(folder / 'ends')
        return {'records': len(sizes)}

    def _read_sizes(self, path: str, field: str) -> np.ndarray:
        """Returns the bytes of each record by reading all of them."""
        reader = ArrayRecordReader(path)
        count = reader.num_records()
        if 'group_size:1,' not in f'{reader.writer_options_string()},':
            what = 'is not written with group_size:1'
            raise self._refuse(field, path, what)
        sizes = np.zeros(count, np.int64)
        name = f'lengths in {os.path.basename(path)}'
        with progress.shown(name, count, 'records') as reach:
            for start in range(0, count, _MANY):
                stop = min(start + _MANY, count)
                records = reader.read(start, stop)
                sizes[start:stop] = [len(record) for record in records]
                reach(stop)
        reader.close()
        return sizes

    def digest(self, path):
        """Returns the hash of samples, with the dtype."""
        return f'{self.dtype}:{sampled_hash(path)}'

    def _refuse(self, field: str, path: str, what: str) -> ConfigError:
        allowed = f'of ArrayRecord files ({path} {what})'
        return ConfigError(field, getattr(self, field), allowed)


def _opened(path: str) -> ArrayRecordReader:
    now = os.stat(path)
    return _reader(path, (now.st_ino, now.st_size, now.st_mtime_ns))


@functools.lru_cache(_OPEN)
def _reader(path: str, version: tuple[int, ...]) -> ArrayRecordReader:
    del version  # of the key: a file may be replaced
    # As grain opens it: for random access, without threads.
    return ArrayRecordReader(
        path, options='readahead_buffer_size:0,max_parallelism:0'
    )
