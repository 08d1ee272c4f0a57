"""Norms of the gradient and of the parameters, by part of the model."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def squares(tree: Any, parts: Any) -> dict[str, Float[Array, '']]:
    """Returns the sum of the squares of the arrays of each part, float32.

    Args:
      tree: gradients or parameters.
      parts: the part of each array, see `moe.parameters.parts`.
    """
    found: dict[str, Any] = {}
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(parts), strict=True)
    for leaf, part in pairs:
        own = jnp.sum(jnp.square(leaf.astype(jnp.float32)))
        found[part] = found.get(part, 0.0) + own
    return found


def named(name: str, sums: dict[str, Any]) -> dict[str, Float[Array, '']]:
    """Returns the norm of all parts together as NAME, and each as NAME/PART.

    Args:
      name: name of the norm.
      sums: sums of squares by part.
    """
    whole = {name: jnp.sqrt(sum(sums.values(), start=jnp.zeros(())))}
    return whole | {f'{name}/{p}': jnp.sqrt(s) for p, s in sums.items()}
