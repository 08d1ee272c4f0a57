"""The pattern of a stack: which layers are of which kind, cut into scans.

L layers; R repetitions of P layers are one scan.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from moe.config import ConfigError
from moe.ops.meshes import platform
from moe.types import Aux

# Longer loops stay loops: each repetition is compiled by itself.
_UNROLLED = 8


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


def singles(kinds: Sequence[Kind]) -> tuple[Scan, ...]:
    """Returns the layers one by one, as `layer_0`, `layer_1` and so on.

    Args:
      kinds: the kind of each layer.
    """
    return tuple(Scan(f'layer_{i}', (k,), 1) for i, k in enumerate(kinds))


def apart(config: Any, stack: Any) -> dict[str, Any]:
    """Returns the variables of a stack, those of each layer by themselves.

    Inside a loop over layers each step copies the layer's parameters out of
    the stacked ones, all experts included. Where few tokens are computed, as
    in decoding, that is more than what is read of them.

    Args:
      config: the `TransformerConfig` of the stack.
      stack: variables of a `Stack`, of one collection.
    """
    found: dict[str, Any] = {}
    for part, place in zip(singles(config.kinds), config.places, strict=True):
        block = stack.get(place.scan, {}).get(place.block)
        if block is not None:
            own = jax.tree.map(lambda leaf, i=place.repeat: leaf[i], block)
            found[part.name] = {'block_0': own}
    return found


def scanned(body: Any, repeats: int, remat: bool) -> Any:
    """Returns the module class of a loop over repetitions of a pattern.

    Args:
      body: module class of one repetition, called with (x, cache, mask,
        token_ids, start, train, record, segments, routes, depths); cache,
        routes and depths have the repetition as their first axis, as
        parameters do.
      repeats: R.
      remat: whether a repetition's gradient computes it again.
    """
    return nn.scan(
        body,
        variable_axes={'params': 0, 'router_state': 0},
        split_rngs={'params': True, 'router': True},
        in_axes=(0, *6 * (nn.broadcast,), 0, 0),
        out_axes=0,
        length=repeats,
        unroll=1 if remat or not _is_unrolled(repeats) else repeats,
    )


def _is_unrolled(repeats: int) -> bool:
    """Returns whether repetitions are compiled one by one, in no loop.

    XLA's loops on CPU copy each repetition's parameters out of the stacked
    ones, and fill the gradients with zeros before they copy into them. What is
    computed again in a gradient would not be, without a loop. Several CPU
    devices stand for accelerators, so their programs have the loops too.
    """
    mesh = jax.sharding.get_abstract_mesh()
    alone = mesh.empty or mesh.size == 1
    return alone and platform(mesh) == 'cpu' and repeats <= _UNROLLED


class RoutesOfScans:
    """The replayed experts of a stack's mixtures, by scan.

    Args:
      routes: of the L mixtures, int32; None for none.
      count: L.

    Raises:
      ConfigError: if they are not of L mixtures.
    """

    def __init__(self, routes: Int[Array, 'B S L K'] | None, count: int):
        if routes is not None and (
            routes.ndim != 4 or routes.shape[2] != count
        ):
            allowed = f'[B, S, {count}, K], of {count} mixture layers'
            raise ConfigError('shape of routes', routes.shape, allowed)
        self._routes, self._used = routes, 0

    def of(self, scan: Scan, apart: bool) -> Int[Array, '*R N B S K'] | None:
        """Returns those of the next scan, of its N mixtures a repetition.

        Args:
          scan: the scan.
          apart: whether it is a single layer that is apart, without R.
        """
        mixtures = sum(kind.mixture for kind in scan.kinds)
        if self._routes is None or not mixtures:
            return None
        first = self._used
        self._used += mixtures * scan.repeats
        own = jnp.moveaxis(self._routes[:, :, first : self._used], 2, 0)
        lead = () if apart else (scan.repeats,)
        return own.reshape(*lead, mixtures, *own.shape[1:])


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
