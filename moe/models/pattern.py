"""The pattern of a stack: which layers are of which kind, cut into scans.

L layers; R repetitions of P layers are one scan.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from moe.types import Aux


class Kind(NamedTuple):
    """What one layer is; the layers of a scan repeat a pattern of kinds.

    Attributes:
      mixture: whether its feed-forward is a mixture.
      windowed: whether its attention sees a window alone.
    """

    mixture: bool
    windowed: bool = False


class Scan(NamedTuple):
    """Layers next to each other that repeat a pattern.

    Attributes:
      name: name of its parameters inside the stack: 'layers' if it is the only
        one, else 'layers_0', 'layers_1' and so on.
      kinds: the P kinds of one repetition.
      repeats: R.
    """

    name: str
    kinds: tuple[Kind, ...]
    repeats: int


class Place(NamedTuple):
    """Where the parameters of a layer are in those of its stack.

    Attributes:
      scan: name of the scan, such as 'layers'.
      block: name of the block inside it, such as 'block_0'.
      repeat: index along the first axis of each array.
    """

    scan: str
    block: str
    repeat: int


@functools.lru_cache
def cut(kinds: tuple[Kind, ...], period: int) -> tuple[Scan, ...]:
    """Cuts layers into scans, such that few layers are compiled.

    Layers that repeat every `period` layers are one scan. Others are cut into
    scans whose patterns have the fewest layers in all, and of these cuts the
    one of the fewest scans is taken: three dense layers and 58 mixtures are
    `3 x [dense]` and `58 x [mixture]`.

    Args:
      kinds: the kind of each of the L layers.
      period: P of the pattern that is looked for first.
    """
    count = len(kinds)
    if count % period == 0 and kinds == kinds[:period] * (count // period):
        found = [(0, period, count)]
    else:
        found = _fewest(kinds)
    names = ['layers']
    if len(found) > 1:
        names = [f'layers_{i}' for i in range(len(found))]
    return tuple(
        Scan(name, kinds[start : start + size], (end - start) // size)
        for name, (start, size, end) in zip(names, found, strict=True)
    )


def _fewest(kinds: tuple[Kind, ...]) -> list[tuple[int, int, int]]:
    """Returns (start, period, end) of each scan of the best cut.

    The best cuts of the first layers are known when those of more are sought.
    """
    count = len(kinds)
    best: dict[int, tuple] = {0: (0, 0, [])}
    for start in range(count):
        layers, scans, before = best[start]
        for period in range(1, count - start + 1):
            pattern = kinds[start : start + period]
            end = start + period
            while kinds[end - period : end] == pattern:
                # Ends count from behind: of equal cuts, the first scans are
                # the longest.
                ends = [*before, (-end, start, period)]
                cost = (layers + period, scans + 1, ends)
                best[end] = min(best.get(end, cost), cost)
                end += period
    return [(start, size, -end) for end, start, size in best[count][2]]


def places(scans: Sequence[Scan]) -> list[Place]:
    """Returns where the parameters of each layer are, in their order.

    Args:
      scans: the scans of a stack.
    """
    return [
        Place(scan.name, f'block_{i}', repeat)
        for scan in scans
        for repeat in range(scan.repeats)
        for i in range(len(scan.kinds))
    ]


def in_order(found: Sequence[Sequence[Aux]]) -> Aux | None:
    """Joins the Aux of all mixtures in the order of their layers.

    The statistics of router states stay apart, by their paths.

    Args:
      found: for each scan, the Aux of each mixture of its pattern, stacked
        over the repetitions.

    Returns:
      One Aux stacked over the mixtures; None if there are none.
    """
    parts = [_joined(mixtures, _interleave) for mixtures in found if mixtures]
    return _joined(parts, _concatenate) if parts else None


def _joined(parts: Sequence[Aux], join) -> Aux:
    if len(parts) == 1:
        return parts[0]
    statistics: dict = {}
    for aux in parts:
        statistics |= aux.state_statistics
    bare = [aux._replace(state_statistics={}) for aux in parts]
    return jax.tree.map(join, *bare)._replace(state_statistics=statistics)


def _interleave(*arrays):
    stacked = jnp.stack(arrays, axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])


def _concatenate(*arrays):
    return jnp.concatenate(arrays)
