"""Checksums of arrays that do not depend on how these are sharded.

An array of elements with the bits b_i, i their index in row-major order, has
the two checksums

  first = sum_i m(b_i ^ m(i))   and   second = sum_i m(m(b_i ^ m(i)) ^ c)

modulo 2^32. m is a bijection that mixes 32 bits, so that any change of one
element changes both sums, and other changes go unseen with probability 2^-64.
Additions of integers commute: any mesh gives the same sums.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, UInt32

_SECOND = 0x9E3779B9
_CHUNK = 2**18  # elements that stay in a CPU's cache


def leaf_names(tree: Any) -> list[str]:
    """Returns the names of the leaves of a tree, such as 'params/head'.

    Args:
      tree: a tree of anything; None is no leaf.
    """
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    name = functools.partial(jax.tree_util.keystr, simple=True, separator='/')
    return [name(path) for path, _ in paths]


def device_checksums(tree: Any) -> UInt32[Array, 'leaves 2']:
    """Starts to compute the checksums of the leaves, on their devices.

    Args:
      tree: arrays in any sharding, all on the same devices.

    Returns:
      The two sums of each leaf, a copy on every device.
    """
    leaves = jax.tree.leaves(tree)
    place = getattr(leaves[0], 'sharding', None)
    if isinstance(place, NamedSharding):
        place = NamedSharding(place.mesh, P())
    return _program(place)(leaves)


@functools.lru_cache
def _program(place: Any) -> Any:
    return jax.jit(
        lambda leaves: jnp.stack([_on_device(leaf) for leaf in leaves]),
        out_shardings=place,
    )


def _on_device(leaf: Array) -> UInt32[Array, '2']:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if leaf.dtype == bool:
        leaf = leaf.astype(jnp.uint8)
    size = min(leaf.dtype.itemsize, 4)
    # Of 8 bytes it makes two words, along a new last axis.
    bits = lax.bitcast_convert_type(leaf, jnp.dtype(f'uint{8 * size}'))
    index = jnp.zeros(bits.shape, jnp.uint32)
    for axis in range(bits.ndim):
        stride = np.uint32(math.prod(bits.shape[axis + 1 :]) % 2**32)
        iota = lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        index += stride * iota
    first, second = _mixed(bits.astype(jnp.uint32), index)
    add = functools.partial(jnp.sum, dtype=jnp.uint32)
    return jnp.stack([add(first), add(second)])


def host_checksum(array: np.ndarray) -> UInt32[np.ndarray, '2']:
    """Returns the checksums of an array on the host.

    Args:
      array: any array; of PRNG keys their data.

    Returns:
      The two sums, equal to those of `device_checksums`.
    """
    size = min(array.dtype.itemsize, 4)
    bits = np.ascontiguousarray(array).reshape(-1).view(f'uint{8 * size}')
    total = np.zeros(2, np.uint64)
    for start in range(0, bits.size, _CHUNK):
        part = bits[start : start + _CHUNK].astype(np.uint32)
        index = np.arange(start, start + part.size, dtype=np.uint64)
        mixed = _mixed(part, index.astype(np.uint32))
        total += [np.sum(x, dtype=np.uint64) for x in mixed]
    return total.astype(np.uint32)


def _mixed(bits: Any, index: Any) -> tuple[Any, Any]:
    first = _mix(bits ^ _mix(index))
    return first, _mix(first ^ np.uint32(_SECOND))


def _mix(x: Any) -> Any:
    """Mixes 32 bits: a bijection, by xors with shifts and odd factors.

    Source: C. Wellons, "Prospecting for hash functions", 2018: lowbias32.
    """
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x7FEB352D)
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))
