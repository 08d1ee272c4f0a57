"""A stable sort of small whole numbers.

A keys, S their bound.
"""

import functools

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from moe.ops import native


def stable_sort(
    keys: Int[Array, 'A'], bound: int
) -> tuple[Int[Array, 'A'], Int[Array, 'A'], Int[Array, 'S']]:
    """Sorts keys from 0 to S - 1; equal ones stay in their order.

    On CPUs by counting, with a kernel of `moe.ops.native`.

    Args:
      keys: the keys, int32.
      bound: S.

    Returns:
      The keys in rising order, the place that each of them had, and for every
      number below S how many keys are smaller, all int32.

    >>> stable_sort(jnp.array([2, 0, 2, 1]), 3)[1].tolist()
    [1, 3, 0, 2]
    """
    return lax.platform_dependent(
        keys,
        cpu=functools.partial(_sort_cpu, bound=bound),
        default=functools.partial(_sort, bound=bound),
    )


def _sort(keys, bound):
    places = jnp.arange(keys.shape[0], dtype=jnp.int32)
    rising, places = lax.sort((keys, places), num_keys=1, is_stable=True)
    starts = jnp.searchsorted(rising, jnp.arange(bound))
    return rising, places, starts.astype(jnp.int32)


def _sort_cpu(keys, bound):
    if not native.takes(keys, jnp.int32):
        return _sort(keys, bound)
    places, ends = native.order(keys, bound)
    starts = jnp.concatenate([jnp.zeros(1, jnp.int32), ends[:-1]])
    return keys[places], places, starts
