"""Parameters of experts, split along `fsdp`, made whole in `shard_map`."""

from collections.abc import Collection

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Shaped


def part_of(spec: P, axes: Collection[str]) -> P:
    """Returns what a sharding says of some axes of the mesh.

    Args:
      spec: a sharding.
      axes: the axes of the mesh.
    """
    return P(*(tuple(n for n in _names(s) if n in axes) or None for s in spec))


def whole(
    w: Shaped[Array, '...'],
    summed: Shaped[Array, '...'],
    spec: P,
    kept: tuple[str, ...],
) -> Shaped[Array, '...']:
    """Gathers a parameter, whose gradient is that of another array.

    Args:
      w: this device's part.
      summed: the parameter in the dtype that its gradient is summed in; its
        numbers are not read.
      spec: the mesh axes that the whole is split over.
      kept: those that it stays split over.

    Returns:
      The parameter, whole but for `kept`.
    """
    for axis, names in enumerate(spec):
        others = tuple(name for name in _names(names) if name not in kept)
        if others:
            w = lax.all_gather(w, others, axis=axis, tiled=True)
    if not jnp.issubdtype(w.dtype, jnp.floating):
        return w
    dtype = summed.dtype
    of_summed = jax.custom_vjp(lambda w, summed: w)
    of_summed.defvjp(
        lambda w, summed: (w, None), lambda _, d: (None, d.astype(dtype))
    )
    return of_summed(w, summed)


def _names(axes):
    """The axes of the mesh that one of an array's is split over."""
    return (axes,) if isinstance(axes, str) else axes or ()
