"""The leaves of a transformer's checkpoint, by the layer that they are of."""

import re
from typing import NamedTuple

from moe.models.transformer import TransformerConfig

_IN_STACK = re.compile(
    r'((?:params|model_state/router_state)/stack/)(\w+)/(block_\d+)/(.+)'
)
# Inside the mixture of a block: with a shared network, and without one.
_MIXTURE = re.compile(r'moe/(?:mixture/)?(.+)')
# What the gate of a mixture has; its last axis is that of the experts.
GATE = ('router', 'router_bias', 'router_noise')


class Place(NamedTuple):
    """Where a leaf of a stack is, which has one part a repetition.

    Attributes:
      begin: the name up to the scan, such as 'params/stack/'.
      layers: the layer of each repetition.
      rest: the name inside the block, such as 'moe/router'.
    """

    begin: str
    layers: tuple[int, ...]
    rest: str


def place_of(model: TransformerConfig, name: str) -> Place | None:
    """Returns where a leaf is in the stack; None if it is outside.

    Args:
      model: config of the transformer.
      name: name of the leaf, such as 'params/stack/layers/block_0/moe/router'.
    """
    found = _IN_STACK.fullmatch(name)
    if found is None:
        return None
    begin, scan, block, rest = found.groups()
    layers = [
        layer
        for layer, place in enumerate(model.places)
        if (place.scan, place.block) == (scan, block)
    ]
    return Place(begin, tuple(layers), rest)


def name_of(
    model: TransformerConfig, begin: str, layer: int, rest: str
) -> tuple[str, int]:
    """Returns the leaf that has a part of a layer, and the index along it.

    Args:
      model: config of the transformer.
      begin: see `Place`.
      layer: number of the layer.
      rest: see `Place`.
    """
    place = model.places[layer]
    return f'{begin}{place.scan}/{place.block}/{rest}', place.repeat


def in_mixture(rest: str) -> str | None:
    """Returns the name inside a mixture, such as 'experts/up' or 'router'.

    A shared network's is 'shared/up'; None is a leaf of no mixture.

    Args:
      rest: the name inside a block.
    """
    found = _MIXTURE.fullmatch(rest)
    return found and found[1]
