"""Files of data: which a glob names, of what kind, decompressed, that fit."""

import bz2
import contextlib
import glob
import gzip
import hashlib
import importlib
import io
import lzma
import os
import pathlib
import re
import stat
import zlib
from collections.abc import Iterator
from typing import Any

from moe.config import ConfigError
from moe.training.host import available_memory

MANIFEST = 'manifest.json'  # of shards that our commands write
UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError)

# First bytes of formats; those of text are too long to begin a text.
_KINDS = {
    b'\x89PNG': 'a PNG picture',
    b'\xff\xd8\xff': 'a JPEG picture',
    b'GIF87a': 'a GIF picture',
    b'GIF89a': 'a GIF picture',
    b'PAR1': 'a Parquet file',
    b'ARROW1': 'an Arrow file',
    b'\x89HDF': 'an HDF5 file',
    b'\x93NUMPY': 'a NumPy array',
    b'SQLite format 3\0': 'a SQLite database',
    b'PK\x03\x04': 'a zip archive, as .npz, .xlsx and .docx are',
    b'7z\xbc\xaf': 'a 7-Zip archive',
    b'Rar!\x1a': 'a RAR archive',
    b'\x1f\x9d': 'compressed by compress',
    b'\x04"M\x18': 'compressed by LZ4',
    b'%PDF-': 'a PDF document',
    b'\x7fELF': 'a program',
    b'\xff\xfe': 'text in UTF-16',
    b'\xfe\xff': 'text in UTF-16',
}


def matching(pattern: str, field: str) -> list[str]:
    """Returns the files that a glob names, sorted; folders are left out.

    Args:
      pattern: the glob, or a path.
      field: the config field that holds the glob, for messages.

    Raises:
      ConfigError: if there is no such file, or something among them that is
        neither a file nor a folder, such as a link to nothing or a pipe.
    """
    if '\0' in pattern:
        raise ConfigError(field, pattern, 'a path or a glob, without a NUL')
    names = [pattern]  # though it may have brackets
    if not os.path.lexists(pattern):
        names = sorted(glob.glob(pattern, recursive=True))
    files = []
    for name in names:
        try:
            mode = os.stat(name).st_mode
        except OSError as error:
            allowed = f'of files ({name} cannot be read: {error.strerror})'
            raise ConfigError(field, pattern, allowed) from None
        if stat.S_ISREG(mode):
            files.append(name)
        elif not stat.S_ISDIR(mode):
            kind = 'a pipe' if stat.S_ISFIFO(mode) else 'a device or a socket'
            allowed = f'of files ({name} is {kind})'
            raise ConfigError(field, pattern, allowed)
    if not files:
        found = (
            'it is a folder'
            if os.path.isdir(pattern)
            else 'there is no such file'
        )
        allowed = f'the path or a glob of files ({found})'
        raise ConfigError(field, pattern, allowed)
    return files


@contextlib.contextmanager
def opened(path: str | pathlib.Path) -> Iterator[io.BufferedReader]:
    """Opens a file, decompressed if it is of gzip, bzip2, xz or Zstandard.

    The content decides, whatever the file's name.

    Args:
      path: path of the file.

    Yields:
      A stream of bytes; reading it raises `UNREADABLE`.
    """
    with open(path, 'rb') as file:
        head = file.read(10)
        file.seek(0)
        made: Any = file
        match compression(head):
            case 'gzip':
                made = gzip.GzipFile(fileobj=file)
            case 'bzip2':
                made = bz2.BZ2File(file)
            case 'xz':
                made = lzma.LZMAFile(file)  # noqa: SIM115
            case 'zstandard':
                made = _zstandard().open(file)
        try:
            with made:
                yield io.BufferedReader(made)
        except Exception as error:
            if type(error).__name__ != 'ZstdError':
                raise
            raise OSError(str(error)) from None


def compression(head: bytes) -> str | None:
    """Returns how a file is compressed by its first ten bytes, or None."""
    if head.startswith(b'\x1f\x8b'):
        return 'gzip'
    if re.match(rb'BZh[1-9]1AY&SY', head):
        return 'bzip2'
    if head.startswith(b'\xfd7zXZ\0'):
        return 'xz'
    return 'zstandard' if head.startswith(b'\x28\xb5\x2f\xfd') else None


def _zstandard() -> Any:
    for name in ('compression.zstd', 'zstandard'):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    raise OSError('it is compressed by Zstandard, which this Python lacks')


def binary_kind(data: bytes) -> str | None:
    """Returns what a file is that is known not to be text; None for others.

    Args:
      data: the file's first bytes, decompressed.
    """
    if data[257:262] == b'ustar':
        return 'a tar archive'
    found = (kind for head, kind in _KINDS.items() if data.startswith(head))
    return next(found, None)


def check_memory(size: int, field: str, value: Any) -> None:
    """Refuses data that memory has no room for.

    Args:
      size: the bytes that the data will take.
      field: the config field that names the data, for messages.
      value: its value.

    Raises:
      ConfigError: with both figures.
    """
    free = available_memory()
    if size > free:
        allowed = (
            f'of data that fits in memory (it takes {size / 2**30:,.1f} GiB, '
            f'and {free / 2**30:,.1f} GiB are free)'
        )
        raise ConfigError(field, value, allowed)


def sampled_hash(path: str, blocks: int = 64, block: int = 4096) -> str:
    """Returns a hash of a file's size and of evenly spaced blocks of it.

    Args:
      path: path of the file.
      blocks: number of blocks; a file of fewer is hashed whole.
      block: bytes of a block.
    """
    size = os.path.getsize(path)
    digest = hashlib.sha256(str(size).encode())
    count = min(blocks, -(-size // block))
    with open(path, 'rb') as file:
        for i in range(count):
            file.seek(i * max(size - block, 0) // max(count - 1, 1))
            digest.update(file.read(block))
    return digest.hexdigest()


def by_number(path: str) -> list[Any]:
    """Returns a key by which names are in order, numbers by their value."""
    parts = re.split(r'(\d+)', path)
    return [int(p) if i % 2 else p for i, p in enumerate(parts)]
