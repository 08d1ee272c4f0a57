"""The sizes of the records of an ArrayRecord file, from its footer.

ArrayRecord is a Riegeli file: blocks of 64 KiB, each with a header of 24 bytes,
through which chunks run on. A chunk has a header of 40 bytes (hash, size of its
data, hash, type and number of records, size when decoded) and its data. The
last block begins with a chunk that has the footer's offset; the footer has
`(offset, decoded size, number of records)` of every chunk, as protocol buffers.
Source: array_record's `cpp/layout.proto`, and riegeli's
`riegeli_records_file_format.md`.

R records.
"""

import contextlib
import importlib
import struct
from collections.abc import Callable

import numpy as np

from moe.workloads.lm.data.mapping import mapped

_BLOCK, _BLOCK_HEADER = 2**16, 24
_CHUNK_HEADER = struct.Struct('<QQQQQ')
_FIELDS = (8, 16, 24)  # tags of offset, decoded size and number of records


def footer_sizes(path: str) -> np.ndarray | None:
    """Returns the bytes of each record, int64 [R], without reading records.

    Args:
      path: path of a file with one record a chunk (`group_size:1`).

    Returns:
      None if the footer cannot be read: it is compressed in a way that this
      Python lacks, or chunks have several records.
    """
    data = mapped(path)
    last = len(data) - _BLOCK
    if last < 0 or len(data) % _BLOCK:
        return None
    # The postscript: field 1, a varint, is the footer's offset.
    postscript = _chunk(data, last + _BLOCK_HEADER)
    position = postscript.find(b'\x08')
    if position < 0:
        return None
    offset = int(_varints(np.frombuffer(postscript, np.uint8)[position:])[1])
    if not 0 < offset < last:
        return None
    chunk = _chunk(data, offset)
    found = _values(chunk)
    if found is None:
        return None
    sizes, values = found
    first = int(_varints(sizes)[0])  # the metadata
    return _decoded(values[first:])


def _chunk(data, start: int) -> bytes:
    """Returns the data of a chunk, without headers of blocks inside."""
    header = _read(data, start, _CHUNK_HEADER.size)
    size = _CHUNK_HEADER.unpack(header)[1]
    return _read(data, start, _CHUNK_HEADER.size + size)[_CHUNK_HEADER.size :]


def _read(data, start: int, size: int) -> bytes:
    parts = []
    while size > 0:
        if start % _BLOCK == 0:
            start += _BLOCK_HEADER
        step = min(size, _BLOCK - start % _BLOCK)
        part = data[start : start + step]
        if len(part) < step:
            raise ValueError('is cut off')
        parts.append(part)
        start, size = start + step, size - step
    return b''.join(parts)


def _values(chunk: bytes) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the sizes of a simple chunk's records, and the records."""
    kind, rest = chunk[:1], chunk[1:]
    length, used = _varint(rest)
    sizes, values = rest[used : used + length], rest[used + length :]
    if kind == b'\0':
        decode: Callable[[bytes], bytes] | None = lambda part: part
    elif kind == b'z':
        decode = _zstandard()
    else:
        decode = None
    if decode is None:
        return None
    return tuple(  # type: ignore[return-value]
        np.frombuffer(decode(part), np.uint8) for part in (sizes, values)
    )


def _zstandard() -> Callable[[bytes], bytes] | None:
    """Returns what decompresses a size and a frame of Zstandard."""
    with contextlib.suppress(ImportError):
        module = importlib.import_module('compression.zstd')
        return lambda part: module.decompress(part[_varint(part)[1] :])
    with contextlib.suppress(ImportError):
        module = importlib.import_module('zstandard')

        def decode(part):
            size, used = _varint(part)
            reader = module.ZstdDecompressor()
            return reader.decompress(part[used:], max_output_size=size)

        return decode
    return None


def _varint(data: bytes) -> tuple[int, int]:
    """Returns the first varint of some bytes, and how many it takes."""
    value = 0
    for i, byte in enumerate(data[:10]):
        value |= (byte & 127) << (7 * i)
        if byte < 128:
            return value, i + 1
    raise ValueError('has a damaged footer')


def _varints(data: np.ndarray) -> np.ndarray:
    """Returns all varints of an array of bytes, int64."""
    last = np.flatnonzero(data < 128)
    starts = np.concatenate([[0], last[:-1] + 1])
    width = last - starts + 1
    found = np.zeros(len(last), np.int64)
    for i in range(int(width.max(initial=0))):
        there = np.flatnonzero(width > i)
        byte = data[starts[there] + i].astype(np.int64) & 127
        found[there] |= byte << (7 * i)
    return found


def _decoded(values: np.ndarray) -> np.ndarray | None:
    """Returns the decoded size of each chunk; None for several records."""
    numbers = _varints(values)
    tags, sizes = numbers[0::2], numbers[1::2]
    if len(numbers) == 6 * (len(numbers) // 6) and np.array_equal(
        tags, np.tile(_FIELDS, len(tags) // 3)
    ):
        return sizes[1::3] if np.all(sizes[2::3] == 1) else None
    # A field that is 0 is absent, such as the size of an empty record.
    found = []
    for tag, size in zip(tags.tolist(), sizes.tolist(), strict=True):
        if tag == _FIELDS[0]:
            found.append(0)
        elif tag == _FIELDS[1]:
            found[-1] = size
        elif tag != _FIELDS[2] or size != 1:
            return None
    return np.array(found, np.int64)
