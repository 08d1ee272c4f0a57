"""From the leaves of a run's state to the tensors of a published checkpoint."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from moe.checkpoints.hf.files import Planned
from moe.checkpoints.hf.tensors import Published


def plan(
    tensors: Iterable[Published],
    values: Mapping[str, np.ndarray],
    dtype_of: Callable[[str, np.dtype], np.dtype],
) -> list[Planned]:
    """Returns the tensors to write, each made when it is written.

    Args:
      tensors: the tensors of the model.
      values: the leaves by name.
      dtype_of: returns the dtype of a tensor, of its name and that of its leaf.
    """
    return [_planned(one, values, dtype_of) for one in tensors]


def _planned(one, values, dtype_of):
    dtype = dtype_of(one.name, values[one.leaves[0]].dtype)

    def make():
        parts = [values[name][one.at] for name in one.leaves]
        return one.layout.join(parts).astype(dtype)

    return Planned(one.name, one.shape, np.dtype(dtype), make)
