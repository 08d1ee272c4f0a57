"""Reading the arrays of a checkpoint, leaf by leaf.

Orbax keeps leaf 'params/head' as the zarr array `params.head` in the OCDBT
database `state/`. TensorStore reads it here without Orbax, whose errors do not
say what was being read.
"""

import concurrent.futures
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore

from moe.training.checksum import host_checksum, leaf_names
from moe.training.record import Damage, Leaf, Record, cause, with_checksums

_READERS = 8  # leaves that are read at once
# Bytes of a leaf that are kept: devices that share a chunk decode it once.
_CACHE = 2**30


def read_state(folder: pathlib.Path, record: Record, like: Any) -> Any:
    """Reads all arrays onto devices; each process reads what its devices have.

    Args:
      folder: the checkpoint's folder.
      record: its record, with the leaves of `like`.
      like: a tree of `jax.ShapeDtypeStruct` with shardings.

    Returns:
      The tree of arrays.

    Raises:
      Damage: for an array that cannot be read.
      ConfigError: for files that may not be read.
    """
    leaves, structure = jax.tree.flatten(like)
    names = leaf_names(like)
    read = lambda name, leaf: _on_devices(
        folder, name, record.leaves[name], leaf
    )
    with concurrent.futures.ThreadPoolExecutor(_READERS) as readers:
        found = list(readers.map(read, names, leaves))
    return jax.tree.unflatten(structure, found)


def _on_devices(
    folder: pathlib.Path, name: str, leaf: Leaf, like: jax.ShapeDtypeStruct
) -> jax.Array:
    store = _open(folder, name, leaf)
    parts: dict[str, np.ndarray] = {}

    def part(index):
        key = str(index)
        if key not in parts:
            parts[key] = _read(folder, store[index])
        return parts[key]

    array = jax.make_array_from_callback(
        store.shape, like.sharding, part, dtype=store.dtype.numpy_dtype
    )
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        impl: list[Any] = []
        jax.eval_shape(lambda key: impl.append(jax.random.key_impl(key)), like)
        return jax.random.wrap_key_data(array, impl=impl[0])
    return array


def read_leaf(folder: pathlib.Path, name: str, leaf: Leaf) -> np.ndarray:
    """Reads an array on the host, and compares it with its record.

    Args:
      folder: the checkpoint's folder.
      name: name of the leaf.
      leaf: what the record has of it.

    Returns:
      The array; of PRNG keys their data.

    Raises:
      Damage: if it cannot be read, or differs.
      ConfigError: for files that may not be read.
    """
    array = _read(folder, _open(folder, name, leaf))
    found = with_checksums({name: leaf}, host_checksum(array)[None])
    if found[name] != leaf:
        raise Damage(str(folder), f'leaf {name}', 'does not have its checksum')
    return array


def _open(folder: pathlib.Path, name: str, leaf: Leaf) -> Any:
    files = {'driver': 'file', 'path': f'{folder.absolute() / "state"}/'}
    path = name.replace('/', '.') + '/'
    spec = {
        'driver': 'zarr',
        'kvstore': {'driver': 'ocdbt', 'base': files, 'path': path},
        'context': {'cache_pool': {'total_bytes_limit': _CACHE}},
    }
    try:
        store = tensorstore.open(spec, open=True, read=True).result()
    except Exception as error:
        raise cause(folder, error) from None
    shape, dtype = tuple(leaf.shape), leaf.dtype
    if dtype.startswith('key<'):  # the words of PRNG keys
        shape, dtype = (*shape, *store.shape[-1:]), 'uint32'
    if (store.shape, store.dtype.name) != (shape, dtype):
        reason = f'is {store.dtype.name}{list(store.shape)}, not as recorded'
        raise Damage(str(folder), f'leaf {name}', reason)
    return store


def _read(folder: pathlib.Path, store: Any) -> np.ndarray:
    try:
        return store.read().result()
    except Exception as error:
        raise cause(folder, error) from None
