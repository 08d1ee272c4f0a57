"""Which dispatcher is the fastest, from static shapes."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp

from moe.dispatch.base import Dispatcher
from moe.dispatch.dispatchers import grouped, indexed
from moe.ops import meshes, native
from moe.types import Routing

# Padded rows that cost as much as one sorted row, where products of groups are
# slower than those of equal batches: loops of XLA's and TPUs, and GPUs.
_WORTH = 1.5
_WORTH_ON_GPU = 1.25


def choose(
    routing: Routing,
    experts: Any,
    capacity: int | None,
    dtype: Any = jnp.float32,
    communication: str = 'none',
) -> Dispatcher:
    """Returns `grouped` or `indexed`: the same values at the lower cost.

    `grouped` multiplies the A assignments, `indexed` the E*G*C rows of its
    buffers, full or not. Where the kernels of `moe.ops.native` multiply groups
    as fast as batches, as they do in a program for CPUs, `grouped` is chosen
    unless it has more rows; elsewhere `indexed` is, up to 1.5 padded rows for
    an assignment, 1.25 on GPUs. Communication and experts may need one of the
    two.

    Args:
      routing: the routing of a batch.
      experts: the experts; a module may have the attribute `takes_sorted_rows`,
        and is called with `sizes` otherwise if it has such an argument.
      capacity: C; None drops nothing.
      dtype: dtype of the rows.
      communication: name of how tokens reach other devices.
    """
    if communication in ('all_to_all', 'ragged'):
        return grouped if communication == 'ragged' else indexed
    if not _takes_sorted_rows(experts):
        return indexed
    capacity = capacity or routing.max_per_expert()
    padded = routing.num_experts * routing.weight.shape[0] * capacity
    sorted_rows = routing.weight.size
    platform = meshes.platform(jax.sharding.get_abstract_mesh())
    kernels = platform == 'cpu' and native.takes(jnp.zeros(1, dtype))
    worth = _WORTH_ON_GPU if platform in ('cuda', 'gpu') else _WORTH
    return by_rows(padded, sorted_rows, kernels=kernels, worth=worth)


def by_rows(
    padded: int, sorted_rows: int, *, kernels: bool, worth: float = _WORTH
) -> Dispatcher:
    """Returns the dispatcher that multiplies in less time.

    Args:
      padded: rows of buffers, full or not.
      sorted_rows: assignments.
      kernels: whether groups are multiplied as fast as batches, as the
        kernels of `moe.ops.native` do.
      worth: padded rows that cost as much as one assignment, without them.
    """
    if kernels:
        return indexed if padded < sorted_rows else grouped
    return indexed if padded <= worth * sorted_rows else grouped


def _takes_sorted_rows(experts: Any) -> bool:
    given = getattr(experts, 'takes_sorted_rows', None)
    if given is None:
        given = 'sizes' in inspect.signature(experts).parameters
    return given
