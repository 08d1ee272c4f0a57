"""Which plans to try."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from launch.planning.chips import Topology
from moe.models.transformer import REMAT_POLICIES

Changes = dict[str, Any]

# What is tried beside the mesh, by dotted name, the most promising first.
# Tokens travel in capacity buffers, or as rows sorted by expert.
COMMUNICATIONS: tuple[Changes, ...] = (
    {
        'model.moe.communication': 'all_to_all',
        'model.moe.dispatcher': 'indexed',
    },
    {'model.moe.communication': 'none'},
    {'model.moe.communication': 'ragged', 'model.moe.dispatcher': 'grouped'},
    {'model.moe.communication': 'gather'},
)
REMAT: tuple[Changes, ...] = tuple(
    {'model.remat': name} for name in reversed(REMAT_POLICIES)
)


def meshes(plain: Mapping[str, Any], num_devices: int) -> Iterator[Changes]:
    """Yields factorisations data x fsdp x expert x tensor that divide.

    The experts divide over `expert`, the key heads over `tensor`, the
    sequences of a microbatch over the rest, the width over `fsdp`.

    Args:
      plain: a config.
      num_devices: of the topology.
    """
    model, replica = plain['model'], plain['mesh']['replica']
    rows = plain['data']['batch_size'] // plain['optimizer']['accumulation']
    left = num_devices // replica
    for expert, tensor, fsdp in itertools.product(_divisors(left), repeat=3):
        data, rest = divmod(left, expert * tensor * fsdp)
        if rest or not data:
            continue
        divides = (
            model['moe']['num_experts'] % expert == 0
            and model['num_kv_heads'] % tensor == 0
            and model['d_model'] % fsdp == 0
            and rows % (num_devices // tensor) == 0
        )
        if divides:
            sizes = {'data': data, 'fsdp': fsdp}
            sizes |= {'expert': expert, 'tensor': tensor}
            yield {f'mesh.{axis}': n for axis, n in sizes.items()}


def candidates(plain: Mapping[str, Any], topology: Topology) -> list[Changes]:
    """What to compile, the likeliest to fit and to be fast first.

    State is split over all devices before it is copied, and little is split
    over `tensor`, whose collectives are on the way of every product. What is
    far down more than one list comes last.

    Args:
      plain: a config.
      topology: the machines.

    Returns:
      Changes of the config, by dotted name.
    """

    def order(changes):
        return (
            changes['mesh.data'] * changes['mesh.tensor'],
            changes['mesh.tensor'],
            changes['mesh.expert'],
        )

    shapes = sorted(meshes(plain, topology.num_devices), key=order)
    lists = (shapes, COMMUNICATIONS, REMAT)
    places = itertools.product(*(range(len(choices)) for choices in lists))
    found = []
    for place in sorted(places, key=sum):
        shape, communication, remat = (
            choices[i] for choices, i in zip(lists, place, strict=True)
        )
        # Of one device nothing travels.
        nothing = communication['model.moe.communication'] == 'none'
        if nothing or shape['mesh.expert'] > 1:
            found.append(shape | communication | remat)
    return found


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
