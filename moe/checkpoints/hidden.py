"""Hidden units of the experts `mlp`: taken, and drawn again.

A parameter goes by its name: 'up', 'gate', 'down', and with '_bias' the biases.
Leading axes [...] are those of experts; D width, F hidden units.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from moe.config import ConfigError
from moe.config.registry import entry_of
from moe.experts import EXPERTS, MLP

# The axis of the hidden units, counted from the end; `down_bias` has none.
AXES = {'up': -1, 'gate': -1, 'down': -2, 'up_bias': -1, 'gate_bias': -1}


def check_known(experts: Any, field: str) -> None:
    """Refuses experts whose hidden units are not known.

    Args:
      experts: an entry of `EXPERTS` with its options.
      field: its name, for messages.

    Raises:
      ConfigError: for any but `mlp`.
    """
    if entry_of(experts) is not MLP:
        allowed = "'mlp', whose hidden units are known"
        raise ConfigError(f'{field}.name', EXPERTS.name_of(experts), allowed)


def _place(name: str, index: Any) -> tuple:
    return (..., index, *(slice(None),) * (-AXES[name] - 1))


def take(
    name: str,
    array: Float[np.ndarray, '...'],
    index: Sequence[int] | np.ndarray | slice,
) -> Float[np.ndarray, '...']:
    """Returns some of the hidden units of a parameter.

    Args:
      name: name of the parameter; one without hidden units stays as it is.
      array: the parameter.
      index: the units, in their new order.
    """
    return array[_place(name, index)] if name in AXES else array


def redraw(
    name: str,
    array: Float[np.ndarray, '...'],
    index: Sequence[int] | np.ndarray,
    draw: np.random.Generator,
) -> Float[np.ndarray, '...']:
    """Returns a parameter with some of its hidden units drawn again.

    They are normal, with the mean and the standard deviation of the values that
    they replace. Source: Drop-Upcycling, arXiv 2502.19261, section 3.2.

    Args:
      name: name of the parameter; one without hidden units stays as it is.
      array: the parameter, of one network.
      index: the units.
      draw: makes the values.
    """
    if name not in AXES:
        return array
    where = _place(name, np.asarray(index, int))
    old, result = array[where], array.copy()
    if old.size:
        result[where] = draw.normal(old.mean(), old.std(), old.shape)
    return result
