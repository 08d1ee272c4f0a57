"""Safetensors files, one or several shards of a checkpoint.

A file is the length of a JSON header (8 bytes, little-endian), the header
`{name: {dtype, shape, data_offsets}}`, and the bytes of all tensors in
row-major order. Source: github.com/huggingface/safetensors, README. Its NumPy
interface has no 8-bit floats and writes a whole shard from memory; here each
tensor is read and written by itself.
"""

import json
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from moe import files
from moe.config import ConfigError
from moe.paths import read_json

INDEX, SINGLE = 'model.safetensors.index.json', 'model.safetensors'
# Longest header that the library reads.
_LONGEST = 100_000_000

DTYPES: dict[str, np.dtype] = {
    'F64': np.dtype(np.float64),
    'F32': np.dtype(np.float32),
    'F16': np.dtype(np.float16),
    'BF16': np.dtype(ml_dtypes.bfloat16),
    'F8_E4M3': np.dtype(ml_dtypes.float8_e4m3fn),
    'F8_E5M2': np.dtype(ml_dtypes.float8_e5m2),
    'F8_E8M0': np.dtype(ml_dtypes.float8_e8m0fnu),
    'I64': np.dtype(np.int64),
    'I32': np.dtype(np.int32),
    'I16': np.dtype(np.int16),
    'I8': np.dtype(np.int8),
    'U8': np.dtype(np.uint8),
    'BOOL': np.dtype(bool),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Stored(NamedTuple):
    """One tensor in a file.

    Attributes:
      path: the file.
      dtype: its dtype, as the file names it, such as 'BF16'.
      shape: its shape.
      offset: byte of the file at which it begins.
    """

    path: pathlib.Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


class Planned(NamedTuple):
    """One tensor that is to be written.

    Attributes:
      name: its name.
      shape: its shape.
      dtype: its dtype.
      make: returns its values.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        """Returns its bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def find_tensors(folder: pathlib.Path) -> dict[str, Stored]:
    """Reads the headers of a checkpoint's files.

    Args:
      folder: the folder with the index and its shards, or one file.

    Returns:
      Every tensor by name.

    Raises:
      ConfigError: if there are none, or if a shard is missing, damaged, or
        without a tensor that the index says it has.
    """
    if not (folder / INDEX).exists():
        if (folder / SINGLE).exists():
            return _read_header(folder / SINGLE)
        allowed = f'a folder with {SINGLE}, or {INDEX} and its shards'
        raise ConfigError('DIR', str(folder), allowed)
    where = read_json(folder / INDEX).get('weight_map')
    if not isinstance(where, Mapping) or not where:
        allowed = f'a folder whose {INDEX} has a weight_map'
        raise ConfigError('DIR', str(folder), allowed)
    found: dict[str, Stored] = {}
    for name in sorted({str(name) for name in where.values()}):
        path = folder / name
        if pathlib.PurePath(name).name != name or not path.is_file():
            allowed = f'a folder with all shards: {name} of {INDEX} is missing'
            raise ConfigError('DIR', str(folder), allowed)
        found |= _read_header(path)
    for name, shard in where.items():
        if name not in found or found[name].path.name != shard:
            allowed = f'a folder whose {shard} has {name}, as {INDEX} says'
            raise ConfigError('DIR', str(folder), allowed)
    return found


def _read_header(path: pathlib.Path) -> dict[str, Stored]:
    size = path.stat().st_size
    with path.open('rb') as file:
        length = int.from_bytes(file.read(8), 'little')
        if size < 8 or length > min(size - 8, _LONGEST):
            raise _damaged(path, 'its header is not whole')
        raw = file.read(length)
    try:
        header = json.loads(raw)
        header.pop('__metadata__', None)
        found, end = {}, 8 + length
        order = sorted(header.items(), key=lambda e: e[1]['data_offsets'])
        for name, entry in order:
            dtype, shape = entry['dtype'], tuple(map(int, entry['shape']))
            start, stop = entry['data_offsets']
            if dtype not in DTYPES:
                known = ', '.join(DTYPES)
                allowed = f'one of {known}'
                raise ConfigError(f'{path.name}: {name}', dtype, allowed)
            bytes_ = math.prod(shape) * DTYPES[dtype].itemsize
            if 8 + length + start != end or stop - start != bytes_:
                raise _damaged(path, f'{name} is not where its header says')
            found[name] = Stored(path, dtype, shape, end)
            end += bytes_
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise _damaged(path, 'its header is not one of safetensors') from None
    if end != size:
        raise _damaged(path, f'it has {size} bytes, and its header says {end}')
    return found


def _damaged(path: pathlib.Path, reason: str) -> ConfigError:
    return ConfigError('DIR', str(path), f'a whole file ({reason})')


def read_tensor(stored: Stored) -> np.ndarray:
    """Returns a tensor as a view of its file, which is read when used.

    Args:
      stored: what the header says of it.
    """
    dtype = DTYPES[stored.dtype]
    if not math.prod(stored.shape):
        return np.zeros(stored.shape, dtype)
    flat = np.memmap(
        stored.path,
        np.uint8,
        'r',
        stored.offset,
        (math.prod(stored.shape) * dtype.itemsize,),
    )
    return flat.view(dtype).reshape(stored.shape)


def write_tensors(
    folder: pathlib.Path, tensors: Iterable[Planned], shard_size: int
) -> list[str]:
    """Writes tensors into one file, or shards and their index.

    Args:
      folder: the folder, which exists.
      tensors: the tensors, in their order; each is made when it is written.
      shard_size: most bytes of tensors in a file, unless one alone has more.

    Returns:
      The names of the files.

    Raises:
      OSError: if they cannot be written.
    """
    shards: list[list[Planned]] = [[]]
    for tensor in tensors:
        filled = sum(one.size for one in shards[-1])
        if shards[-1] and filled + tensor.size > shard_size:
            shards.append([])
        shards[-1].append(tensor)
    count = len(shards)
    names = [
        f'model-{i + 1:05}-of-{count:05}.safetensors' for i in range(count)
    ]
    if count == 1:
        names = [SINGLE]
    for name, shard in zip(names, shards, strict=True):
        _write_file(folder / name, shard)
    if count > 1:
        where = {
            tensor.name: name
            for name, shard in zip(names, shards, strict=True)
            for tensor in shard
        }
        total = sum(tensor.size for shard in shards for tensor in shard)
        index = {'metadata': {'total_size': total}, 'weight_map': where}
        files.write_text(folder / INDEX, json.dumps(index, indent=2) + '\n')
        return [*names, INDEX]
    return names


def _write_file(path: pathlib.Path, shard: Sequence[Planned]) -> None:
    # Wide elements first, so that each begins at a multiple of its width.
    shard = sorted(shard, key=lambda one: -one.dtype.itemsize)
    header: dict[str, Any] = {'__metadata__': {'format': 'pt'}}
    start = 0
    for one in shard:
        header[one.name] = {
            'dtype': _NAMES[one.dtype],
            'shape': list(one.shape),
            'data_offsets': [start, start + one.size],
        }
        start += one.size
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    with files.replacing(path, 'wb') as file:
        file.write(len(text).to_bytes(8, 'little') + text)
        for one in shard:
            values = np.ascontiguousarray(one.make(), one.dtype)
            assert values.shape == one.shape, (one.name, values.shape)
            file.write(values.reshape(-1).view(np.uint8).data)
