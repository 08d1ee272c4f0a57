"""Documents in files of text, of JSON rows, and of Parquet, by parts of them.

A part is read by itself, so that several processes share the work.
"""

import contextlib
import importlib
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from moe.config import ConfigError
from moe.workloads.data_files import UNREADABLE, compression, opened
from moe.workloads.lm.data.jsonl import row_text

KINDS = ('text', 'jsonl', 'parquet')


class Part(NamedTuple):
    """A part of a file.

    Attributes:
      kind: one of `KINDS`.
      path: path of the file.
      start: first byte, or first row group of Parquet.
      stop: the one after the last; -1 for the whole file.
      size: bytes of the file that it takes, about.
    """

    kind: str
    path: str
    start: int
    stop: int
    size: int


def kind_of(path: str) -> str:
    """Returns what a file has, by its first bytes and its name."""
    with open(path, 'rb') as file:
        if file.read(4) == b'PAR1':
            return 'parquet'
    name = os.path.basename(path)
    rows = any(part in ('jsonl', 'ndjson') for part in name.split('.')[1:])
    return 'jsonl' if rows else 'text'


def parts_of(path: str, kind: str, size: int) -> list[Part]:
    """Returns parts of a file of about a size, that are read by themselves.

    Args:
      path: path of the file.
      kind: one of `KINDS`.
      size: bytes of a part.

    Raises:
      ConfigError: for Parquet that cannot be read.
    """
    total = os.path.getsize(path)
    if kind == 'parquet':
        groups = parquet_file(path).metadata
        sizes = [
            groups.row_group(i).total_byte_size
            for i in range(groups.num_row_groups)
        ]
        return [Part(kind, path, i, i + 1, n) for i, n in enumerate(sizes)]
    if kind == 'jsonl' and total > size and not _is_compressed(path):
        starts = range(0, total, size)
        return [
            Part(kind, path, start, min(start + size, total), size)
            for start in starts
        ]
    return [Part(kind, path, 0, -1, total)]


def read_part(part: Part, field: str) -> Iterator[bytes]:
    """Yields the documents of a part, UTF-8, without empty ones.

    Args:
      part: the part.
      field: name of the text in rows.

    Raises:
      ConfigError: for a file that cannot be read, or a row without a text.
    """
    try:
        if part.kind == 'parquet':
            found = _rows(part, field)
        elif part.kind == 'jsonl':
            found = _lines(part, field)
        else:
            found = _whole(part.path)
        yield from (text for text in found if text)
    except UNREADABLE as error:
        raise _refuse(part.path, f'cannot be read: {error}') from None


def _whole(path: str) -> Iterator[bytes]:
    with opened(path) as stream:
        data = stream.read()
    if b'\0' in data:
        raise _refuse(path, 'is no text: it has NUL bytes')
    yield data


def _lines(part: Part, field: str) -> Iterator[bytes]:
    with opened(part.path) as stream:
        position = part.start
        if position:  # the line before belongs to the part where it begins
            stream.seek(position - 1)
            position += len(stream.readline()) - 1
        while part.stop < 0 or position < part.stop:
            line = stream.readline()
            if not line:
                return
            if line.strip():
                text = row_text(line, field)
                if text is None:
                    what = f'has no text {field!r} in the row at {position:,}'
                    raise _refuse(part.path, what)
                yield text
            position += len(line)


def _rows(part: Part, field: str) -> Iterator[bytes]:
    file = parquet_file(part.path)
    if field not in file.schema_arrow.names:
        known = ', '.join(file.schema_arrow.names)
        raise _refuse(part.path, f'has no column {field!r} but {known}')
    groups = list(range(part.start, part.stop))
    for batch in file.iter_batches(256, groups, columns=[field]):
        for text in batch.column(0).to_pylist():
            if not isinstance(text, str):
                raise _refuse(part.path, f'has a row without a text {field!r}')
            yield text.encode(errors='replace')


def parquet_file(path: str) -> Any:
    """Opens a file of Parquet.

    Args:
      path: path of the file.

    Returns:
      The `pyarrow.parquet.ParquetFile`.

    Raises:
      ConfigError: without the package, or for another file.
    """

    def refuse(what):
        return ConfigError('--files', path, f'of rows (it {what})')

    try:
        module = importlib.import_module('pyarrow.parquet')
    except ImportError:
        what = "is Parquet, which needs pyarrow: pip install 'moe[parquet]'"
        raise refuse(what) from None
    with contextlib.suppress(Exception):
        return module.ParquetFile(path)
    raise refuse('is no Parquet file that can be read')


def _is_compressed(path: str) -> bool:
    with open(path, 'rb') as file:
        return compression(file.read(10)) is not None


def _refuse(path: str, what: str) -> ConfigError:
    return ConfigError('--files', path, f'of documents (it {what})')
