"""Tables of tensors: a published name, and which parameters it is.

A row is read in both directions, so that what an import splits and transposes
an export joins and transposes back.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from moe.config import ConfigError
from moe.workloads.lm.model import LMConfig

Shape = tuple[int, ...]

# A row whose parameter begins so is of the router's state.
STATE = 'state:'
_PARAMS, _STATE = 'params', 'model_state/router_state'


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the axes of parameters are those of one published tensor.

    The last `inputs` and `outputs` axes of a parameter are flattened into one
    of each. Several parameters are joined along the last axis of the first,
    into which the others' last axes are flattened.

    Attributes:
      inputs: number of input axes; 0 for a vector.
      outputs: number of output axes.
      transposed: whether outputs come first in the published tensor.
      interleaved: whether the columns of two parameters alternate.
    """

    inputs: int = 1
    outputs: int = 1
    transposed: bool = True
    interleaved: bool = False

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """Returns the shape of the published tensor.

        Args:
          shapes: shapes of the parameters.
        """
        first = shapes[0]
        whole = (*first[:-1], sum(_widths(shapes)))
        lead = len(whole) - self.inputs - self.outputs
        rows = (math.prod(whole[lead : lead + self.inputs]),)
        columns = (math.prod(whole[lead + self.inputs :]),)
        if not self.inputs:
            return whole[:lead] + columns
        flat = columns + rows if self.transposed else rows + columns
        return whole[:lead] + flat

    def split(
        self, tensor: np.ndarray, shapes: Sequence[Shape]
    ) -> list[np.ndarray]:
        """Returns the parameters of a published tensor.

        Args:
          tensor: the tensor.
          shapes: shapes of the parameters.
        """
        if self.inputs and self.transposed:
            tensor = np.swapaxes(tensor, -1, -2)
        first = shapes[0]
        widths = _widths(shapes)
        whole = tensor.reshape(*first[:-1], sum(widths))
        if self.interleaved:
            return [whole[..., i :: len(shapes)] for i in range(len(shapes))]
        parts = np.split(whole, np.cumsum(widths)[:-1], axis=-1)
        return [p.reshape(s) for p, s in zip(parts, shapes, strict=True)]

    def join(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the published tensor of parameters: the inverse of `split`.

        Args:
          arrays: the parameters.
        """
        shape = self.shape([array.shape for array in arrays])
        if self.interleaved:
            whole = np.stack(arrays, axis=-1)
        else:
            first = arrays[0].shape
            parts = [array.reshape(*first[:-1], -1) for array in arrays]
            whole = np.concatenate(parts, axis=-1)
        if not (self.inputs and self.transposed):
            return whole.reshape(shape)
        flat = whole.reshape(*shape[:-2], shape[-1], shape[-2])
        return np.swapaxes(flat, -1, -2)


def _widths(shapes: Sequence[Shape]) -> list[int]:
    """Returns how many columns of the first one's last axis each is."""
    rows = math.prod(shapes[0][:-1])
    return [math.prod(shape) // rows for shape in shapes]


VECTOR = Layout(inputs=0)
TABLE = Layout(transposed=False)
LINEAR = Layout()


class Row(NamedTuple):
    """One row of a family's table.

    Attributes:
      name: published name, with {layer} and {expert} for their numbers.
      targets: the parameters: in the model, or in the block of the layer; after
        `STATE` in the router's state. `moe/` is the mixture of a block.
      layout: how their axes are those of the tensor.
    """

    name: str
    targets: tuple[str, ...]
    layout: Layout = LINEAR


def row(name: str, *targets: str, layout: Layout = LINEAR) -> Row:
    """Returns a row, see `Row`."""
    return Row(name, targets, layout)


class Published(NamedTuple):
    """One tensor of a checkpoint, and where its values are in a train state.

    Attributes:
      name: its published name.
      shape: its published shape.
      leaves: names of the leaves, such as 'params/head'.
      at: index along the first axes of each leaf.
      shapes: shape of what it is of each leaf.
      layout: how these are the tensor.
    """

    name: str
    shape: Shape
    leaves: tuple[str, ...]
    at: tuple[int, ...]
    shapes: tuple[Shape, ...]
    layout: Layout


def published(
    table: Sequence[Row], model: LMConfig, leaves: Mapping[str, Shape]
) -> list[Published]:
    """Returns every tensor that a checkpoint of a model has.

    Args:
      table: the rows of the family; those whose parameters the model does not
        have are left out.
      model: config of the model.
      leaves: shapes of the leaves of the model's state by name.

    Raises:
      ConfigError: for a parameter that no row has.
    """
    found = [tensor for one in table for tensor in _of_row(one, model, leaves)]
    missing = set(leaves).difference(*(tensor.leaves for tensor in found))
    if missing:
        name = min(missing)
        allowed = 'absent: the family has no such tensor'
        raise ConfigError(f'parameter {name}', list(leaves[name]), allowed)
    return found


def _of_row(
    one: Row, model: LMConfig, leaves: Mapping[str, Shape]
) -> Iterator[Published]:
    places: Sequence = [None]
    if '{layer}' in one.name:
        places = model.places
    for layer, place in enumerate(places):
        names = [_leaf(target, model, place) for target in one.targets]
        there = [name for name in names if name in leaves]
        if not there:
            continue
        if len(there) < len(names):
            missing = next(name for name in names if name not in leaves)
            allowed = f'present, beside {there[0]}'
            raise ConfigError(f'parameter {missing}', None, allowed)
        lead = () if place is None else (place.repeat,)
        experts: Sequence = [()]
        if '{expert}' in one.name:
            experts = [(i,) for i in range(model.moe.num_experts)]
        for expert in experts:
            at = (*lead, *expert)
            shapes = tuple(leaves[name][len(at) :] for name in names)
            yield Published(
                one.name.format(layer=layer, expert=expert[0] if expert else 0),
                one.layout.shape(shapes),
                tuple(names),
                at,
                shapes,
                one.layout,
            )


def _leaf(target: str, model: LMConfig, place) -> str:
    """Returns the name of a parameter in the train state."""
    collection = _PARAMS
    if target.startswith(STATE):
        collection, target = _STATE, target.removeprefix(STATE)
    if place is None:
        return f'{collection}/{target}'
    inside = target.removeprefix('moe/')
    if (
        inside != target
        and model.moe.shared
        and not inside.startswith('shared')
    ):
        # The mixture and the shared network are two modules then.
        target = f'moe/mixture/{inside}'
    return f'{collection}/stack/{place.scan}/{place.block}/{target}'
