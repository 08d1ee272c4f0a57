"""The meshes and settings that a comparison of plans tries."""

import itertools
from collections.abc import Iterator

from launch.planning.machines import Topology
from moe.workloads.planning import Changes, Planning


def meshes(planning: Planning, num_devices: int) -> Iterator[Changes]:
    """Yields the meshes data x fsdp x expert x tensor that a run can have.

    All axes but `tensor` divide the rows of a microbatch; `expert`, `tensor`
    and `fsdp` divide the sizes of `Planning.divides`.

    Args:
      planning: planning of the run.
      num_devices: number of devices of the topology.
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
    """Returns the plans to compile, the most promising first.

    State is sharded over all devices rather than replicated, and rarely over
    `tensor`, whose collectives delay every product. Combinations of choices far
    down their lists come last.

    Args:
      planning: planning of the run.
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
        # With all experts on each device there is no communication.
        if changes['mesh.expert'] > 1 or not _communicates(changes):
            found.append(changes)
    return found


def _communicates(changes: Changes) -> bool:
    return changes.get('model.moe.communication', 'none') != 'none'


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
