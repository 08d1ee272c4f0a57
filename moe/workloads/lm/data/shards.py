"""Writes shards of token ids, in the formats that sources read.

V token ids.
"""

import abc
import dataclasses
import multiprocessing
import os
import pathlib
import struct
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from moe.workloads.lm.data.documents import Part, read_part
from moe.workloads.lm.data.tokenizer import read_tokenizer
from moe.workloads.written_shards import described, keep

_BATCH = 2**22  # bytes of text that are encoded at once


class Writer(abc.ABC):
    """A shard that is written document by document.

    Args:
      root: path of the shard without an ending.
      vocab_size: V.

    Attributes:
      endings: of the files of a shard.
    """

    endings: tuple[str, ...]

    def __init__(self, root: pathlib.Path, vocab_size: int):
        self.root, self.vocab_size = root, vocab_size

    @classmethod
    @abc.abstractmethod
    def dtype(cls, vocab_size: int) -> str:
        """Returns the dtype of the ids in the files."""

    @abc.abstractmethod
    def add(self, ids: np.ndarray) -> None:
        """Writes the ids of a document, its end of text included."""

    @abc.abstractmethod
    def close(self) -> None:
        """Completes the files."""


class _Records(Writer):
    """ArrayRecord: a record a document, not compressed, as ids hardly are."""

    endings = ('.array_record',)

    def __init__(self, root, vocab_size):
        super().__init__(root, vocab_size)
        options = 'group_size:1,uncompressed'
        self._file = ArrayRecordWriter(f'{root}.array_record', options)

    @classmethod
    def dtype(cls, vocab_size):
        """Returns uint16, or int32 for more ids."""
        return 'uint16' if vocab_size <= 2**16 else 'int32'

    def add(self, ids):
        """Writes a record."""
        stored = np.dtype(self.dtype(self.vocab_size)).newbyteorder('<')
        self._file.write(ids.astype(stored).tobytes())

    def close(self):
        """Writes the footer."""
        self._file.close()


class _Flat(Writer):
    """Ids one after another, as nanoGPT has them."""

    endings: tuple[str, ...] = ('.bin',)
    header = b''

    def __init__(self, root, vocab_size):
        super().__init__(root, vocab_size)
        self._file: IO[bytes] = open(f'{root}.bin', 'wb')  # noqa: SIM115
        self._file.write(self.header)
        self._stored = np.dtype(self.dtype(vocab_size)).newbyteorder('<')
        self.lengths: list[int] = []

    @classmethod
    def dtype(cls, vocab_size):
        """Returns uint16, or uint32 for more ids."""
        return 'uint16' if vocab_size <= 2**16 else 'uint32'

    def add(self, ids):
        """Writes ids."""
        self._file.write(ids.astype(self._stored).tobytes())
        self.lengths.append(len(ids))

    def close(self):
        """Closes the file."""
        self._file.close()


class _LLMC(_Flat):
    """Ids after a header that has their number, as llm.c has them."""

    header = bytes(256 * 4)

    def close(self):
        """Writes the header."""
        wide = self._stored.itemsize == 4
        magic, version = (20240801, 7) if wide else (20240520, 1)
        self._file.seek(0)
        self._file.write(struct.pack('<iiI', magic, version, sum(self.lengths)))
        super().close()


class _Megatron(_Flat):
    """Ids with an index of documents, as Megatron has them."""

    endings = ('.bin', '.idx')

    @classmethod
    def dtype(cls, vocab_size):
        """Returns uint16, or int32 from 65,500 ids on, as Megatron does."""
        return 'uint16' if vocab_size < 65_500 else 'int32'

    def close(self):
        """Writes the index; each document is one sequence."""
        lengths = np.array(self.lengths, np.int64)
        count, size = len(lengths), self._stored.itemsize
        offsets = size * (np.cumsum(lengths) - lengths)
        code = {2: 8, 4: 4}[size]
        with open(f'{self.root}.idx', 'wb') as file:
            head = ('<9sQBQQ', b'MMIDIDX\0\0', 1, code, count, count + 1)
            file.write(struct.pack(*head))
            file.write(lengths.astype('<i4').tobytes())
            file.write(offsets.astype('<i8').tobytes())
            file.write(np.arange(count + 1, dtype='<i8').tobytes())
        super().close()


WRITERS: dict[str, type[Writer]] = {
    'array_record': _Records,
    'megatron': _Megatron,
    'nanogpt': _Flat,
    'llmc': _LLMC,
}


@dataclasses.dataclass(frozen=True)
class Shard:
    """A shard that is to be written.

    Attributes:
      folder: where to.
      name: its name without an ending.
      format: name of its writer.
      parts: the documents.
      field: name of the text in rows.
      tokenizer: path of the `tokenizer.json`.
      key: identifies all that it depends on.
    """

    folder: str
    name: str
    format: str
    parts: Sequence[Part]
    field: str
    tokenizer: str
    key: str

    @property
    def record(self) -> pathlib.Path:
        """Returns the file that says that the shard is whole."""
        return pathlib.Path(self.folder) / f'.{self.name}.json'


def write_shard(shard: Shard) -> dict[str, Any]:
    """Writes a shard, whole or not at all.

    Args:
      shard: what to write.

    Returns:
      JSON: numbers of its `documents`, `tokens` and `text_bytes`, and the
      `bytes` and `sha256` of its `files` by name.

    Raises:
      ConfigError: for documents that cannot be read.
    """
    if multiprocessing.parent_process() is not None:
        os.environ['TOKENIZERS_PARALLELISM'] = 'false'  # one thread a process
    tokenizer = read_tokenizer(shard.tokenizer)
    end = [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
    folder = pathlib.Path(shard.folder)
    root = folder / f'.{shard.name}.new'
    writer = WRITERS[shard.format](root, tokenizer.vocab_size)
    counts = {'documents': 0, 'tokens': 0, 'text_bytes': 0}

    def write(texts):
        for text, ids in zip(texts, tokenizer.encode_all(texts), strict=True):
            whole = np.concatenate([ids.astype(np.int64), end]).astype(np.int64)
            writer.add(whole)
            counts['documents'] += 1
            counts['tokens'] += len(whole)
            counts['text_bytes'] += len(text)

    batch: list[bytes] = []
    size = 0
    for part in shard.parts:
        for text in read_part(part, shard.field):
            batch.append(text)
            size += len(text)
            if size >= _BATCH:
                write(batch)
                batch, size = [], 0
    write(batch)
    writer.close()
    made = {}
    for ending in writer.endings:
        name, beside = f'{shard.name}{ending}', f'{root}{ending}'
        made[name] = described(beside)
        os.replace(beside, folder / name)
    entry = {**counts, 'files': made}
    keep(shard, entry)
    return entry
