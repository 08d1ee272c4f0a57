"""The registry of expert types, and how a layer makes its experts of one.

E experts, N rows of a padded buffer, A sorted rows, D width.
"""

import functools
import inspect
from typing import Any

import flax.linen as nn

from moe.config import Registry
from moe.config.registry import entry_of
from moe.experts.lifted import Lifted

EXPERTS = Registry('expert type')

# Fields that the layer fills in, and no config has.
SUPPLIED = frozenset({'num_experts', 'dtype', 'down_scale'})


def make_experts(
    choice: functools.partial,
    num_experts: int | None,
    *,
    dtype: Any,
    down_scale: float = 1.0,
    name: str | None = None,
) -> nn.Module:
    """Makes the experts of a layer, or one network of the same type.

    An expert type is a linen module from rows [N, D] to rows [N, D]. If it has
    a field `num_experts` it is all experts at once: called with padded buffers
    [E, N, D], or with sorted rows [A, D] and the number of rows of each expert
    [E], as `MLP` is. If it has none, `Lifted` makes copies of it. Fields
    `dtype` and `down_scale` are filled in where it has them.

    Args:
      choice: an entry of `EXPERTS` with its options.
      num_experts: E; None for one network that every row goes through.
      dtype: dtype of the computation.
      down_scale: factor on the initial output matrix, for deep residual
        stacks.
      name: name of the submodule of the calling module; None for a module that
        becomes an attribute of another.

    Returns:
      The module.
    """
    linen: dict[str, Any] = {'parent': None} if name is None else {'name': name}
    known = inspect.signature(entry_of(choice)).parameters
    given: dict[str, Any] = {'dtype': dtype, 'down_scale': down_scale}
    given = {name: v for name, v in given.items() if name in known}
    if 'num_experts' in known:
        return choice(**given, num_experts=num_experts, **linen)
    if num_experts is None:
        return choice(**given, **linen)
    return Lifted(choice(**given, parent=None), num_experts, **linen)
