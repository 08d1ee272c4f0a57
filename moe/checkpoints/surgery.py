"""Operations on the experts of a run: what all of them have in common.

E experts before, N after; leading axes [...] are any.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import numpy as np
from absl import flags
from jaxtyping import Float

from moe.checkpoints import transform
from moe.checkpoints.leaves import GATE, Place, in_mixture, place_of
from moe.checkpoints.routers import check_tried
from moe.config import ConfigError
from moe.training.checksum import leaf_names


class Operation(Protocol):
    """What becomes of the experts, and of the router's columns, of a layer.

    The number of a layer is that among all layers, mixtures or not.
    """

    def experts(
        self, layer: int, name: str, array: Float[np.ndarray, 'E ...']
    ) -> Float[np.ndarray, 'N ...']:
        """Returns a parameter of the new experts.

        Args:
          layer: number of the layer.
          name: name of the parameter, such as 'up'.
          array: the parameter of the experts.
        """

    def gate(
        self, layer: int, array: Float[np.ndarray, '... E']
    ) -> Float[np.ndarray, '... N']:
        """Returns the columns of the router, or a state of it.

        Args:
          layer: number of the layer.
          array: a matrix of the router, its bias, or a state.
        """


class Surgery:
    """Applies an operation to the leaves of a checkpoint.

    Args:
      source: the checkpoint.
      operation: what becomes of each layer.
    """

    def __init__(self, source: transform.Source, operation: Operation):
        self._source, self._operation = source, operation
        self._model = source.config.model
        tree = {'params': source.config.make_workload().parameters}
        declared = zip(leaf_names(tree), jax.tree.leaves(tree), strict=True)
        self._axes = {name: p.axes for name, p in declared}

    def make(self, name: str, first: Any = None) -> np.ndarray:
        """Returns the values of a leaf of the new run.

        Args:
          name: its name.
          first: its first values, which are not read.

        Raises:
          ConfigError: for experts without an axis of experts.
        """
        values = self._source.read(name)
        place = place_of(self._model, name)
        inside = place and in_mixture(place.rest)
        if place is None or inside is None:
            return values
        count = self._model.moe.num_experts
        if inside.startswith('experts/'):
            return self._experts(name, place, values)
        state = name.startswith('model_state/') and values.ndim > 1
        free = sum(vars(self._model.moe.zero_computation).values())
        if inside in GATE or (state and values.shape[-1] == count + free):
            operate = self._operation.gate
            parts = [
                np.concatenate(
                    [operate(layer, part[..., :count]), part[..., count:]], -1
                )
                for layer, part in zip(place.layers, values, strict=True)
            ]
            return np.stack(parts)
        return values

    def _experts(
        self, name: str, place: Place, values: np.ndarray
    ) -> np.ndarray:
        axes = self._axes[name]
        if 'expert' not in axes:
            allowed = 'experts whose parameters have an axis of experts'
            raise ConfigError('config.model.moe.experts', name, allowed)
        axis = axes.index('expert') - 1
        last = place.rest.rpartition('/')[2]
        found = []
        for layer, part in zip(place.layers, values, strict=True):
            array = np.moveaxis(part, axis, 0)
            made = self._operation.experts(layer, last, array)
            found.append(np.moveaxis(made, 0, axis))
        return np.stack(found)


class Selection:
    """Takes some of the experts, in an order: an `Operation`.

    Args:
      chosen: for each mixture layer, by its number, the experts.
    """

    def __init__(self, chosen: Mapping[int, np.ndarray]):
        self._chosen = chosen

    def experts(self, layer: int, name: str, array: np.ndarray) -> np.ndarray:
        """Returns the experts that are taken."""
        return array[self._chosen[layer]]

    def gate(self, layer: int, array: np.ndarray) -> np.ndarray:
        """Returns their columns."""
        return array[..., self._chosen[layer]]


def opened(workdir: pathlib.Path, values: flags.FlagValues) -> transform.Source:
    """Opens a run whose experts can be operated on.

    Args:
      workdir: the run's folder.
      values: the flags of the command.

    Raises:
      ConfigError: for a folder that is none, or mixtures that are not known.
    """
    source = transform.Source(workdir, values.step, values.plugins)
    if not source.config.model.moe_layers:
        allowed = 'the folder of a run with mixtures'
        raise ConfigError('DIR', str(workdir), allowed)
    check_tried(source.config.model.moe)
    return source


def changed(
    source: transform.Source,
    changes: Mapping[str, Any],
    overrides: transform.Overrides,
) -> Any:
    """Returns the config of a run with another number of experts.

    Args:
      source: the checkpoint.
      changes: what the operation changes in the config, by dotted name.
      overrides: what the user changes.

    Raises:
      ConfigError: for the first field that cannot be used, and for experts
        outside of the stack.
    """
    config = source.changed(changes, overrides)
    if getattr(config.model, 'mtp', None):
        allowed = 'None, as its block has experts of its own'
        raise ConfigError('config.model.mtp', 'given', allowed)
    return config


def write(
    source: transform.Source,
    operation: Operation,
    changes: Mapping[str, Any],
    overrides: transform.Overrides,
    values: flags.FlagValues,
    told: transform.Told,
) -> None:
    """Writes the run that an operation makes, and evaluates both.

    Args:
      source: the checkpoint.
      operation: the operation.
      changes: what it changes in the config, by dotted name.
      overrides: what the user changes.
      values: the flags of the command.
      told: what is told.
    """
    target = transform.new_folder(values.workdir)
    config = source.changed(changes, overrides)
    data = transform.data_of(overrides) if values.evaluate else None
    make = Surgery(source, operation).make
    transform.write(source, target, config, make, told, data)
