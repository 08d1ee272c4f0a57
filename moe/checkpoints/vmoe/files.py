"""The files of a V-MoE checkpoint: PREFIX.index and PREFIX.data-I-of-N.

The index is a tree of names, whose leaves say the shape of an array, its
pieces and the shard that has each; a shard has pieces by the number of their
array, in the order of the tree. All is msgpack, with types of its own.
Source: github.com/google-research/vmoe, `vmoe/checkpoints/serialization.py`
and `partitioned.py`, version 20220622.
"""

import functools
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import msgpack
import numpy as np

from moe.config import ConfigError
from moe.progress import shown

SUFFIX = '.index'
VERSION = '20220622'
_PIECES = '__msgpack_array_chunk_a87ca2__'
# Numbers of the types beside those of msgpack.
_ARRAY, _SCALAR, _SHAPE, _SLICE, _SLICES, _INFO = 1, 3, 4, 5, 6, 8
_DTYPES = ('bfloat16', 'float16', 'float32', 'float64', 'int32', 'uint32')

Slices = tuple[tuple[int, int], ...]


class Stored(NamedTuple):
    """An array of a checkpoint that is not read yet.

    Attributes:
      number: its number in the shards.
      shape: its shape.
      pieces: first and last index along each axis, and the shard, of each
        piece.
    """

    number: int
    shape: tuple[int, ...]
    pieces: tuple[tuple[Slices, int], ...]


class Index(NamedTuple):
    """What the index of a checkpoint says.

    Attributes:
      prefix: path of the files without the ends of their names.
      shards: number of shards.
      arrays: by name, such as 'Encoder/encoder_norm/scale'.
    """

    prefix: str
    shards: int
    arrays: dict[str, Stored]


def find_index(given: pathlib.Path) -> pathlib.Path | None:
    """Returns the index of a checkpoint; None for what has none.

    Args:
      given: its folder, the index, or the path without `.index`.

    Raises:
      ConfigError: for a folder with several.
    """
    if given.is_dir():
        found = sorted(given.glob(f'*{SUFFIX}'))
        if len(found) > 1:
            allowed = f'one of its {len(found)} checkpoints, as {found[0]}'
            raise ConfigError('DIR', str(given), allowed)
        return found[0] if found else None
    for path in (given, given.with_name(given.name + SUFFIX)):
        if path.name.endswith(SUFFIX) and path.is_file():
            return path
    return None


def read_index(path: pathlib.Path) -> Index:
    """Reads the index of a checkpoint.

    Args:
      path: its path.

    Raises:
      ConfigError: for a file that is none, or of another version.
    """
    found = _read(path)
    known = isinstance(found, dict) and {'shard_count', 'index'} <= found.keys()
    if not known:
        raise _damaged(path, 'which has no number of shards, or no tree')
    if found.get('version') != VERSION:
        allowed = f'{VERSION!r}: the order of its arrays is not known'
        raise ConfigError(f'{path}: version', found.get('version'), allowed)
    leaves = list(_leaves(found['index'], ()))
    arrays = {}
    for number, (name, info) in enumerate(leaves):
        if not isinstance(info, _Info):
            raise _damaged(path, f'whose {name} is no array')
        arrays[name] = Stored(number, info.shape, info.pieces)
    prefix = str(path).removesuffix(SUFFIX)
    return Index(prefix, int(found['shard_count']), arrays)


def read_arrays(
    index: Index, wanted: Mapping[str, Stored]
) -> dict[str, np.ndarray]:
    """Reads arrays, of one shard after another.

    Args:
      index: the index.
      wanted: those to read, by name.

    Raises:
      ConfigError: for a shard that is missing or damaged, or arrays that are
        not whole.
    """
    made: dict[str, np.ndarray] = {}
    missing = {name: {p for p, _ in s.pieces} for name, s in wanted.items()}
    needed = sorted({shard for s in wanted.values() for _, shard in s.pieces})
    with shown('reading', len(needed), 'shards') as reached:
        for count, shard in enumerate(needed, 1):
            path = f'{index.prefix}.data-{shard:05d}-of-{index.shards:05d}'
            found = _read(pathlib.Path(path))
            if not isinstance(found, dict) or _PIECES not in found:
                raise _damaged(path, 'which has no pieces of arrays')
            for name, stored in wanted.items():
                for values, where in _pieces(path, found, stored.number):
                    if where not in missing[name]:
                        raise _damaged(path, f'with a piece of {name} too many')
                    missing[name].remove(where)
                    if name not in made:
                        made[name] = np.empty(stored.shape, values.dtype)
                    into = made[name][tuple(slice(a, b) for a, b in where)]
                    if into.size != values.size:
                        raise _damaged(path, f'with another size of {name}')
                    into[...] = values.reshape(into.shape)
            reached(count)
    for name, pieces in missing.items():
        if pieces or name not in made:
            raise _damaged(index.prefix, f'without a piece of {name}')
    return made


def _pieces(
    path: str, found: Mapping[str, Any], number: int
) -> Iterator[tuple[np.ndarray, Slices]]:
    """Yields the pieces of an array in a shard, and where they are."""
    for piece in found.get(str(number), ()):
        parts, where = piece
        if not parts or not all(isinstance(p, np.ndarray) for p in parts):
            raise _damaged(path, f'whose array {number} is none')
        yield np.concatenate([p.reshape(-1) for p in parts]), where


class _Info(NamedTuple):
    shape: tuple[int, ...]
    pieces: tuple[tuple[Slices, int], ...]


def _leaves(tree: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yields the leaves as JAX counts them: by sorted names, without None."""
    if isinstance(tree, dict):
        for name in sorted(tree):
            yield from _leaves(tree[name], (*path, name))
    elif tree is not None:
        yield '/'.join(path), tree


def _read(path: pathlib.Path) -> Any:
    """Returns what a file has, as Python objects and arrays.

    Nothing in it is executed: types that are not known are refused.
    """
    if not path.is_file():
        raise ConfigError('DIR', str(path), 'there: the checkpoint needs it')
    try:
        return msgpack.unpackb(path.read_bytes(), ext_hook=_unpack)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise _damaged(path, f'({error})') from None


def _damaged(path: Any, what: str) -> ConfigError:
    return ConfigError('DIR', str(path), f'a file of V-MoE, not one {what}')


def _unpack(code: int, data: bytes) -> Any:
    if code not in _TYPES:
        raise ValueError(f'type {code}')
    return _TYPES[code](data)


# Inner values are bytes, names of dtypes too.
_inner: Callable[[bytes], Any] = functools.partial(msgpack.unpackb, raw=True)


def _array(data: bytes) -> np.ndarray:
    shape, dtype, values = _inner(data)
    name = dtype.decode()
    if name not in _DTYPES:
        raise ValueError(f'dtype {name}')
    kind = jnp.bfloat16 if name == 'bfloat16' else name
    return np.frombuffer(values, np.dtype(kind)).reshape(tuple(shape))


def _shape(data: bytes) -> tuple[int, ...]:
    return tuple(int(size) for size in _inner(data)[0])


def _slice(data: bytes) -> tuple[int, int]:
    start, stop, step = _inner(data)
    if step not in (None, 1):
        raise ValueError(f'slices of step {step}')
    return int(start), int(stop)


def _slices(data: bytes) -> Slices:
    return tuple(_slice(one) for one in _inner(data))


def _info(data: bytes) -> _Info:
    shape, slices, shards = _inner(data)
    shape = _shape(shape)
    pieces = tuple(zip(map(_slices, slices), map(int, shards), strict=True))
    covered = 0
    for where, _ in pieces:
        within = len(where) == len(shape) and all(
            0 <= a < b <= size
            for (a, b), size in zip(where, shape, strict=True)
        )
        if not within:
            raise ValueError('a piece outside of its array')
        covered += math.prod(b - a for a, b in where)
    if covered != math.prod(shape):
        raise ValueError('pieces that are not the whole array')
    return _Info(shape, pieces)


_TYPES: dict[int, Callable[[bytes], Any]] = {
    _ARRAY: _array,
    _SCALAR: _array,
    _SHAPE: _shape,
    _SLICE: _slice,
    _SLICES: _slices,
    _INFO: _info,
}
