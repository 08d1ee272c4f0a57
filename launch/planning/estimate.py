"""Estimates of network and step times, and plausibility checks."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from launch.planning.cost import Collective, Cost
from launch.planning.hlo import axes_of, groups_of
from launch.planning.machines import Topology


class Implausible(RuntimeError):
    """Figures that contradict each other; no plan is printed."""


@dataclasses.dataclass(frozen=True)
class Traffic:
    """The collectives of one kind along the same mesh axes, in one step.

    Attributes:
      kind: opcode in HLO.
      axes: mesh axes; '-' for groups along no axis.
      count: number of runs.
      bytes: bytes that a device receives.
      seconds: seconds at the bandwidth of the links they can use.
      links: bytes that a device receives by the name of the link.
    """

    kind: str
    axes: str
    count: int
    bytes: float
    seconds: float
    links: dict[str, float]


def moved(kind: str, given: float, size: int) -> float:
    """Returns the bytes that each device of a group receives.

    Args:
      kind: kind of the collective.
      given: bytes that each device puts in.
      size: n, number of devices of the group.

    Returns:
      `given * (n-1)` if gathered, `given * (n-1)/n` if scattered or sent all
      to all, twice that if reduced for all, `given` if passed on.
    """
    if size <= 1:
        return 0.0
    share = given * (size - 1) / size
    return {
        'all-gather': given * (size - 1),
        'all-reduce': 2 * share,
        'reduce-scatter': share,
        'all-to-all': share,
        'ragged-all-to-all': share,
    }.get(kind, given)


def network(
    collectives: Sequence[Collective],
    mesh: Mapping[str, int],
    coords: np.ndarray,
    topology: Topology,
) -> list[Traffic]:
    """Adds up the collectives by kind and mesh axes.

    Args:
      collectives: collectives of a program.
      mesh: sizes of the mesh by axis.
      coords: coordinates of the mesh's devices in order, [N, dims].
      topology: the machines.

    Returns:
      The traffic, longest time first.
    """
    rows: dict[tuple[str, str], Traffic] = {}
    for one in collectives:
        groups = groups_of(one.attributes, len(coords))
        axes = '+'.join(axes_of(groups[0], dict(mesh))) or '-'
        received = moved(one.kind, one.bytes, len(groups[0]))
        links, seconds = topology.travel(
            one.kind, received, [coords[group] for group in groups]
        )
        key = (one.kind, axes)
        before = rows.get(key, Traffic(*key, 0, 0.0, 0.0, {}))
        rows[key] = Traffic(
            *key,
            before.count + one.times,
            before.bytes + one.times * received,
            before.seconds + one.times * seconds,
            {
                link: before.links.get(link, 0.0) + one.times * size
                for link, size in links.items()
            },
        )
    return sorted(rows.values(), key=lambda row: -row.seconds)


def roofline(
    useful: float,
    cost: Cost,
    traffic: Sequence[Traffic],
    units: int,
    topology: Topology,
) -> dict[str, Any]:
    """Returns the times of a step, and the MFU that they allow.

    Compute is executed FLOPs over the peak, memory HBM bytes over its
    bandwidth, network the sum of `traffic`. All overlapped, the longest
    counts; not overlapped at all, their sum. The truth is between, if
    kernels reach the peaks.

    Args:
      useful: FLOPs of a step that the model requires, on all devices.
      cost: cost of a step on a device.
      traffic: traffic of a step on a device.
      units: number of tokens or examples of a step.
      topology: the machines.

    Returns:
      `compute`, `memory`, `network` in seconds, and for `overlapped` and
      `not_overlapped` seconds, mfu and units_per_second.
    """
    chip, per_chip = topology.chip, topology.chip.devices
    times = {
        'compute': cost.flops * per_chip / chip.flops,
        'memory': cost.bytes * per_chip / chip.bandwidth,
        'network': sum(row.seconds for row in traffic),
    }

    def at(step: float) -> dict[str, float]:
        peak = topology.num_chips * chip.flops
        return {
            'seconds': step,
            'mfu': useful / (step * peak),
            'units_per_second': units / step,
        }

    return times | {
        'overlapped': at(max(times.values())),
        'not_overlapped': at(sum(times.values())),
    }


def check(
    useful: float,
    cost: Cost,
    claimed: float | None,
    step: Mapping[str, Any],
    n: int,
    agreement: float = 0.1,
) -> None:
    """Refuses figures that contradict each other.

    Args:
      useful: FLOPs of a step that the model requires, on all devices.
      cost: cost of a step on a device.
      claimed: FLOPs of a device by the compiler, every loop body once; None if
        it does not count.
      step: times of `roofline`.
      n: number of devices.
      agreement: largest relative difference of our count from the compiler's.

    Raises:
      Implausible: if the program executes less than is useful, if the MFU is
        above 1, or if our count is not the compiler's where both count alike.
    """
    if claimed is not None and not math.isclose(
        cost.flops_once, claimed, rel_tol=agreement
    ):
        raise Implausible(
            f'counted {cost.flops_once:.3e} FLOPs with every loop body once, '
            f'where the compiler counts {claimed:.3e}'
        )
    if cost.flops * n < useful:
        raise Implausible(
            f'{cost.flops * n:.3e} executed FLOPs are less than the '
            f'{useful:.3e} useful ones: a loop was not counted'
        )
    for name in ('overlapped', 'not_overlapped'):
        mfu = step[name]['mfu']
        if not 0 < mfu <= 1:
            raise Implausible(f'an MFU of {mfu:.2f}, {name}')
