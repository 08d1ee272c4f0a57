"""The mixtures of several tasks that a config can name.

Each takes what makes its networks (of other `widths`, `num` and `activation`,
as `moe.experts.Network`), the number of tasks, and the settings of its gates,
fields of `MultiGate`; its options are those of the config's section.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from moe.config import Fraction, NaturalInt, PositiveInt, Registry
from moe.layers import multitask
from moe.layers.multitask import (
    PLE,
    SNR,
    CrossStitch,
    SNRLevels,
)

Networks = Callable[..., nn.Module]
Gates = Mapping[str, Any]


def shared_bottom(network: Networks, num_tasks: int, gates: Gates):
    """One network for all tasks."""
    return multitask.shared_bottom(network, num_tasks, **gates)


def single_task(network: Networks, num_tasks: int, gates: Gates):
    """A network for each task, nothing shared."""
    return multitask.single_task(network, num_tasks, **gates)


def omoe(
    network: Networks,
    num_tasks: int,
    gates: Gates,
    *,
    num_experts: PositiveInt = 8,
):
    """Experts, and one gate for all tasks."""
    return multitask.omoe(network, num_experts, num_tasks, **gates)


def mmoe(
    network: Networks,
    num_tasks: int,
    gates: Gates,
    *,
    num_experts: PositiveInt = 8,
):
    """Experts, and a gate for each task."""
    return multitask.mmoe(network, num_experts, num_tasks, **gates)


def cgc(
    network: Networks,
    num_tasks: int,
    gates: Gates,
    *,
    task_experts: PositiveInt = 3,
    shared_experts: NaturalInt = 2,
):
    """Experts of each task and shared ones."""
    return multitask.cgc(
        network, num_tasks, task_experts, shared_experts, **gates
    )


def ple(
    network: Networks,
    num_tasks: int,
    gates: Gates,
    *,
    levels: PositiveInt = 2,
    task_experts: PositiveInt = 3,
    shared_experts: PositiveInt = 2,
):
    """The same in levels, all of the same widths."""
    return PLE(
        (network().widths,) * levels,
        num_tasks,
        task_experts,
        shared_experts,
        network=_level_of(network),
        **gates,
    )


def cross_stitch(
    network: Networks,
    num_tasks: int,
    gates: Gates,
    *,
    levels: PositiveInt = 2,
    near: Fraction = 0.9,
):
    """A network for each task, mixed after every level."""
    return CrossStitch(
        (network().widths,) * levels,
        num_tasks,
        near,
        network=_level_of(network),
        **_penalties(gates),
    )


def snr_trans(
    network: Networks,
    num_tasks: int,
    gates: Gates,
    *,
    networks: tuple[PositiveInt, ...] = (4, 4),
    straight_through: bool = False,
):
    """Rows of networks, and learned routes with matrices between them."""
    return _snr('trans', network, num_tasks, gates, networks, straight_through)


def snr_aver(
    network: Networks,
    num_tasks: int,
    gates: Gates,
    *,
    networks: tuple[PositiveInt, ...] = (4, 4),
    straight_through: bool = False,
):
    """Rows of networks, and learned routes without matrices."""
    return _snr('aver', network, num_tasks, gates, networks, straight_through)


def _snr(kind, network, num_tasks, gates, networks, straight_through):
    if not networks:
        raise ValueError('networks must hold the number of each row')
    levels = tuple(network(num=num) for num in networks)
    features = levels[0].widths[-1]
    routes = tuple(
        SNR(
            count,
            features,
            kind,
            straight_through=straight_through,
            parent=None,
            **gates['kernel_penalty'],
        )
        for count in (*networks[1:], num_tasks)
    )
    return SNRLevels(levels, routes, **_penalties(gates))


def _level_of(network: Networks) -> Networks:
    """The same network on every level, its activations included."""

    def make(widths, *, activation, num, **options):
        del widths, activation
        return network(num=num, **options)

    return make


def _penalties(gates: Gates) -> dict[str, Any]:
    """What is for networks, gates or not."""
    names = ('kernel_penalty', 'bias_penalty', 'parent')
    return {name: gates[name] for name in names}


_MIXTURES: dict[str, Callable[..., nn.Module]] = {
    'cgc': cgc,
    'cross_stitch': cross_stitch,
    'mmoe': mmoe,
    'omoe': omoe,
    'ple': ple,
    'shared_bottom': shared_bottom,
    'single_task': single_task,
    'snr_aver': snr_aver,
    'snr_trans': snr_trans,
}

MIXTURES = Registry('mixture')
for _n, _r in _MIXTURES.items():
    MIXTURES.register(_n)(_r)
