"""The data sources of flat files of token ids: nanoGPT's and llm.c's."""

import dataclasses
import os
from typing import Literal

import numpy as np

from moe.config import ConfigError
from moe.workloads.data_files import sampled_hash
from moe.workloads.lm.data.sources import SOURCES
from moe.workloads.lm.data.token_files import TokenFiles
from moe.workloads.lm.data.tokens import Mapped

_HEADER = 256 * 4  # bytes
# By the magic number of llm.c's headers: the version and the dtype of the ids.
_KINDS = {20240520: (1, '<u2'), 20240801: (7, '<u4')}


@SOURCES.register('nanogpt')
@dataclasses.dataclass(frozen=True)
class NanoGPT(TokenFiles):
    """Token ids one after another, little-endian, without a header.

    Source: nanoGPT's `data/*/prepare.py`.

    Attributes:
      dtype: dtype of the ids.
    """

    dtype: Literal['uint8', 'uint16', 'uint32', 'int32'] = 'uint16'

    def open(self, path, field):
        """Opens a file; refuses one of llm.c."""
        size, item = os.path.getsize(path), np.dtype(self.dtype).itemsize
        if _magic(path) in _KINDS:
            raise _refuse(
                self, field, path, "has llm.c's header: name = 'llmc'"
            )
        if size == 0 or size % item:
            what = f'has {size} bytes, which are no ids of {self.dtype}'
            raise _refuse(self, field, path, what)
        stored = np.dtype(self.dtype).newbyteorder('<').str
        return Mapped(path, stored, 0, size // item)

    def digest(self, path):
        """Returns the hash of samples, with the dtype."""
        return f'{self.dtype}:{sampled_hash(path)}'


@SOURCES.register('llmc')
@dataclasses.dataclass(frozen=True)
class LLMC(TokenFiles):
    """Token ids after a header of 256 int32, little-endian.

    The header has a magic number, a version and the number of tokens: 20240520
    and 1 for uint16, 20240801 and 7 for uint32. A document may go on in the
    next file. Source: llm.c's `dev/data/data_common.py`; modded-nanoGPT has
    the same.
    """

    def open(self, path, field):
        """Opens a file by its header."""
        magic, size = _magic(path), os.path.getsize(path)
        if magic not in _KINDS or size < _HEADER:
            raise _refuse(self, field, path, "does not have llm.c's header")
        _, version, count = np.fromfile(path, '<i4', 3).tolist()
        known, stored = _KINDS[magic]
        if version != known:
            what = f'is of version {version}, not {known}'
            raise _refuse(self, field, path, what)
        there = (size - _HEADER) // np.dtype(stored).itemsize
        if count < 1 or count > there:
            what = f'has {there} tokens, and its header says {count}'
            raise _refuse(self, field, path, what)
        return Mapped(path, stored, _HEADER, count)

    def digest(self, path):
        """Returns the hash of samples."""
        return sampled_hash(path)


def _magic(path: str) -> int:
    with open(path, 'rb') as file:
        return int.from_bytes(file.read(4), 'little')


def _refuse(
    source: TokenFiles, field: str, path: str, what: str
) -> ConfigError:
    allowed = f'of files of this format ({path} {what})'
    return ConfigError(field, getattr(source, field), allowed)
