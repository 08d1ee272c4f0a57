"""Which meshes and settings a comparison of plans tries."""

import itertools
from collections.abc import Iterator

from launch.planning.chips import Topology
from moe.workloads.planning import Changes, Planning


def meshes(planning: Planning, num_devices: int) -> Iterator[Changes]:
    """Yields factorisations data x fsdp x expert x tensor that divide.

    The rows of a microbatch divide over all axes but `tensor`; the others
    divide what the workload says, such as the experts.

    Args:
      planning: of a run.
      num_devices: of the topology.
    """
    config, sizes = planning.config, planning.divides
    rows = config.data.batch_size // config.optimizer.accumulation
    left = num_devices // config.mesh.replica
    tried = [
        [n for n in _divisors(left) if sizes.get(axis, 1) % n == 0]
        for axis in ('expert', 'tensor', 'fsdp')
    ]
    for expert, tensor, fsdp in itertools.product(*tried):
        data, rest = divmod(left, expert * tensor * fsdp)
        if rest or not data or rows % (num_devices // tensor):
            continue
        shape = {'data': data, 'fsdp': fsdp, 'expert': expert, 'tensor': tensor}
        yield {f'mesh.{axis}': n for axis, n in shape.items()}


def candidates(planning: Planning, topology: Topology) -> list[Changes]:
    """Returns what to compile, the likeliest to fit and be fast first.

    State is split over all devices before it is copied, and little is split
    over `tensor`, whose collectives are on the way of every product. What is
    far down more than one list comes last.

    Args:
      planning: of a run.
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

    shapes = sorted(meshes(planning, topology.num_devices), key=order)
    lists = (shapes, *planning.variations())
    places = itertools.product(*(range(len(choices)) for choices in lists))
    found = []
    for place in sorted(places, key=sum):
        chosen = [choices[i] for choices, i in zip(lists, place, strict=True)]
        changes: Changes = {k: v for part in chosen for k, v in part.items()}
        # On one device there is nothing to communicate.
        if changes['mesh.expert'] > 1 or not _communicates(changes):
            found.append(changes)
    return found


def _communicates(changes: Changes) -> bool:
    return changes.get('model.moe.communication', 'none') != 'none'


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
