"""Reading a published checkpoint onto a mesh, tensor by tensor."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from moe.checkpoints.hf.quantized import Tensor
from moe.checkpoints.hf.tensors import Published
from moe.config import ConfigError


def check_tensors(
    wanted: Iterable[Published], there: Mapping[str, Tensor]
) -> set[str]:
    """Refuses files without a tensor, or with one of another shape.

    Args:
      wanted: the tensors of the model.
      there: the tensors in the files.

    Returns:
      The tensors in the files that the model does not have.

    Raises:
      ConfigError: for the first that is missing or of another shape.
    """
    left = set(there)
    for tensor in wanted:
        found = there.get(tensor.name)
        if found is None:
            allowed = f'in the files, of the shape {list(tensor.shape)}'
            raise ConfigError(f'tensor {tensor.name}', None, allowed)
        if found.shape != tensor.shape:
            allowed = f'of the shape {list(tensor.shape)}, by config.json'
            raise ConfigError(
                f'tensor {tensor.name}', list(found.shape), allowed
            )
        left.discard(tensor.name)
    return left


def read_leaves(
    wanted: Iterable[Published],
    there: Mapping[str, Tensor],
    like: Mapping[str, jax.ShapeDtypeStruct],
    reached: Callable[[int], Any] = lambda count: None,
) -> dict[str, jax.Array]:
    """Reads tensors into the leaves of a state, one after another.

    The host holds one tensor at a time, beside the shards of its devices.

    Args:
      wanted: the tensors of the model.
      there: the tensors in the files.
      like: shapes and shardings of the leaves by name.
      reached: is called with the number of tensors that are read.

    Returns:
      The leaves by name.
    """
    leaves: dict[str, jax.Array] = {}
    for count, tensor in enumerate(wanted):
        reached(count)
        values = there[tensor.name].read()
        parts = tensor.layout.split(values, tensor.shapes)
        for name, part in zip(tensor.leaves, parts, strict=True):
            before = leaves.pop(name, None)
            leaves[name] = _with(before, part, tensor.at, like[name])
        del values, parts, part, before
    return leaves


def _with(
    before: jax.Array | None,
    part: np.ndarray,
    at: tuple[int, ...],
    like: jax.ShapeDtypeStruct,
) -> jax.Array:
    """Returns a leaf with a part of it written, when that has been done."""
    part = np.ascontiguousarray(part, like.dtype)
    if not at:
        return jax.device_put(part, like.sharding).block_until_ready()
    if before is None:
        before = jnp.zeros(like.shape, like.dtype, device=like.sharding)
    placed = jax.device_put(part, _below(like.sharding, len(at)))
    index = np.array(at, np.int32)
    return _put(like.sharding)(before, placed, index).block_until_ready()


def _below(sharding: Any, axes: int) -> Any:
    """Returns the sharding of what is behind the first axes of an array."""
    if not isinstance(sharding, NamedSharding):
        return sharding
    return NamedSharding(sharding.mesh, P(*sharding.spec[axes:]))


@functools.lru_cache
def _put(sharding: Any) -> Any:
    """Returns a program that writes a part into an array, in its place."""

    def put(whole, part, index):
        count = len(index)
        start = [*index, *(0,) * part.ndim]
        part = part.reshape(*(1,) * count, *part.shape)
        return lax.dynamic_update_slice(whole, part, start)

    return jax.jit(put, donate_argnums=0, out_shardings=sharding)
