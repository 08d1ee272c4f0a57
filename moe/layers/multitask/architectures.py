"""Named architectures: `MultiGate` with different counts and visibility.

T tasks, E experts. A `network` makes E networks in parallel, [B, E, H], from
`num`, e.g. `functools.partial(Network, (32, 16))`; options are the fields of
`MultiGate`.
"""

from collections.abc import Callable

import flax.linen as nn
import numpy as np

from moe.layers.multitask.multi_gate import MultiGate

MakeNetwork = Callable[..., nn.Module]


def mmoe(
    network: MakeNetwork, num_experts: int, num_tasks: int, **options
) -> MultiGate:
    """A gate for each task over all experts. Source: Ma et al., KDD 2018."""
    return MultiGate(_many(network, num_experts), num_tasks, **options)


def omoe(
    network: MakeNetwork, num_experts: int, num_tasks: int, **options
) -> MultiGate:
    """One gate for all tasks. Source: Ma et al., KDD 2018, section 4.1."""
    return MultiGate(_many(network, num_experts), 1, num_tasks, **options)


def shared_bottom(network: MakeNetwork, num_tasks: int, **options) -> MultiGate:
    """One network for all tasks; its gate is 1. Source: Caruana, 1997."""
    return omoe(network, 1, num_tasks, **options)


def single_task(network: MakeNetwork, num_tasks: int, **options) -> MultiGate:
    """A network for each task, nothing shared; the gates are 1."""
    return cgc(network, num_tasks, 1, 0, **options)


def cgc(
    network: MakeNetwork,
    num_tasks: int,
    task_experts: int,
    shared_experts: int,
    *,
    shared_gate: bool = False,
    **options,
) -> MultiGate:
    """A task sees its own experts, and the shared ones.

    The experts of task 0 are first, the shared ones last. Source: Tang et al.,
    PLE, RecSys 2020, section 4.2.

    Args:
      network: makes networks in parallel, as the module says.
      num_tasks: T.
      task_experts: experts of each task.
      shared_experts: experts that all tasks share.
      shared_gate: whether a last gate, and output, sees all experts.
      **options: fields of `MultiGate`.

    Returns:
      The layer; it has T outputs, or T + 1.
    """
    own = np.repeat(np.eye(num_tasks, dtype=bool), task_experts, axis=1)
    shared = np.ones((num_tasks, shared_experts), bool)
    visible = np.concatenate([own, shared], axis=1)
    if shared_gate:
        everything = np.ones((1, visible.shape[1]), bool)
        visible = np.concatenate([visible, everything])
    return MultiGate(
        _many(network, visible.shape[1]),
        len(visible),
        visible=tuple(map(tuple, visible.tolist())),
        **options,
    )


def _many(network: MakeNetwork, num: int) -> nn.Module:
    # Without a parent: the layer that takes them becomes it.
    return network(num=num, parent=None)
