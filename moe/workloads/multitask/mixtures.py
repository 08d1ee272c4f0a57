"""The registry of multi-task mixtures.

An entry is called with the description of its networks and the number of
tasks, and returns a linen module [B, D] -> ([B, T, H], Aux), called with
`train` and `mask`. Its options are those of the section `model.mixture`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from moe.config import (
    ConfigError,
    Fraction,
    NaturalInt,
    PositiveFloat,
    PositiveInt,
    Registry,
)
from moe.experts.network import InitializerName
from moe.layers import multitask
from moe.layers.multitask import PLE, SNR, CrossStitch, SNRLevels
from moe.workloads.multitask.gates import GateConfig
from moe.workloads.multitask.networks import NetworkConfig, Penalty

MIXTURES = Registry('mixture')
GATE = GateConfig()


@MIXTURES.register('shared_bottom')
def shared_bottom(expert: NetworkConfig, num_tasks: int):
    """One network for all tasks. Source: Caruana, 1997."""
    return multitask.shared_bottom(
        expert.network, num_tasks, **_options(expert)
    )


@MIXTURES.register('single_task')
def single_task(expert: NetworkConfig, num_tasks: int):
    """A network for each task, and nothing that they share."""
    return multitask.single_task(expert.network, num_tasks, **_options(expert))


@MIXTURES.register('omoe')
def omoe(
    expert: NetworkConfig,
    num_tasks: int,
    *,
    num_experts: PositiveInt = 8,
    gate: GateConfig = GATE,
):
    """Experts, and one gate for all tasks. Source: Ma et al., KDD 2018.

    Args:
      expert: description of the experts.
      num_tasks: T.
      num_experts: E, number of experts.
      gate: the gate.
    """
    return multitask.omoe(
        expert.network, num_experts, num_tasks, **_options(expert, gate)
    )


@MIXTURES.register('mmoe')
def mmoe(
    expert: NetworkConfig,
    num_tasks: int,
    *,
    num_experts: PositiveInt = 8,
    gate: GateConfig = GATE,
):
    """Experts, and a gate for each task. Source: Ma et al., KDD 2018.

    Args:
      expert: description of the experts.
      num_tasks: T.
      num_experts: E, number of experts.
      gate: the gates.
    """
    return multitask.mmoe(
        expert.network, num_experts, num_tasks, **_options(expert, gate)
    )


@MIXTURES.register('cgc')
def cgc(
    expert: NetworkConfig,
    num_tasks: int,
    *,
    task_experts: PositiveInt = 3,
    shared_experts: NaturalInt = 2,
    gate: GateConfig = GATE,
):
    """Experts of each task, and shared experts. Source: PLE, RecSys 2020.

    Args:
      expert: description of the experts.
      num_tasks: T.
      task_experts: experts of each task.
      shared_experts: experts of all tasks.
      gate: the gates.
    """
    return multitask.cgc(
        expert.network,
        num_tasks,
        task_experts,
        shared_experts,
        **_options(expert, gate),
    )


@MIXTURES.register('ple')
def ple(
    expert: NetworkConfig,
    num_tasks: int,
    *,
    levels: PositiveInt = 2,
    task_experts: PositiveInt = 3,
    shared_experts: PositiveInt = 2,
    gate: GateConfig = GATE,
):
    """Levels of task experts and shared experts. Source: PLE, RecSys 2020.

    Args:
      expert: description of the experts, the same on all levels.
      num_tasks: T.
      levels: number of levels.
      task_experts: experts of each task, on each level.
      shared_experts: experts of all tasks, on each level.
      gate: the gates of all levels.
    """
    return PLE(
        (expert.widths,) * levels,
        num_tasks,
        task_experts,
        shared_experts,
        network=_level_of(expert),
        **_options(expert, gate),
    )


@MIXTURES.register('cross_stitch')
def cross_stitch(
    expert: NetworkConfig,
    num_tasks: int,
    *,
    levels: PositiveInt = 2,
    near: Fraction = 0.9,
):
    """A network for each task, mixed after every level (arXiv 1604.03539).

    Args:
      expert: description of the networks, the same on all levels.
      num_tasks: T.
      levels: number of levels.
      near: initial weight of a task's own network; the other networks share the
        rest.
    """
    return CrossStitch(
        (expert.widths,) * levels,
        num_tasks,
        near,
        network=_level_of(expert),
        **_options(expert),
    )


@MIXTURES.register('snr_aver')
@dataclasses.dataclass(frozen=True)
class Averages:
    """Rows of networks, and gated routes that sum their outputs.

    Source: Ma et al., AAAI 2019, SNR-Aver. See `moe.layers.multitask.SNR`.

    Attributes:
      networks: number of networks of each row, from the inputs to the tasks.
      beta: temperature of the routes' gates.
      gamma: lower end of the gates' stretched interval, below 0.
      zeta: upper end of the interval, above 1.
      straight_through: whether the gradient reaches closed gates too.
    """

    networks: tuple[PositiveInt, ...] = (4, 4)
    beta: PositiveFloat = 0.5
    gamma: float = -0.1
    zeta: float = 1.1
    straight_through: bool = False

    def __post_init__(self):
        if not self.networks:
            allowed = 'the number of networks of each row, at least one'
            raise ConfigError('networks', self.networks, allowed)
        if self.gamma >= 0:
            raise ConfigError('gamma', self.gamma, 'less than 0')
        if self.zeta <= 1:
            raise ConfigError('zeta', self.zeta, 'greater than 1')

    def __call__(self, expert: NetworkConfig, num_tasks: int) -> SNRLevels:
        """Makes the rows and the routes.

        Args:
          expert: description of the networks of all rows.
          num_tasks: T.
        """
        rows = tuple(expert.network(num) for num in self.networks)
        routes = tuple(
            SNR(
                num_outputs,
                expert.widths[-1],
                beta=self.beta,
                gamma=self.gamma,
                zeta=self.zeta,
                straight_through=self.straight_through,
                parent=None,
                **self._matrices(expert),
            )
            for num_outputs in (*self.networks[1:], num_tasks)
        )
        return SNRLevels(rows, routes, **_options(expert))

    def _matrices(self, expert: NetworkConfig) -> dict[str, Any]:
        """Returns the options of `SNR` for its matrices."""
        del expert
        return {'kind': 'aver'}


@MIXTURES.register('snr_trans')
@dataclasses.dataclass(frozen=True)
class Transformations(Averages):
    """Rows of networks, and gated routes with a matrix each.

    Source: Ma et al., AAAI 2019, SNR-Trans. See `moe.layers.multitask.SNR`.

    Attributes:
      kernel_init: initialiser of the routes' matrices.
      kernel_penalty: penalty of the matrices; None is that of the networks'
        kernels.
    """

    kernel_init: InitializerName = 'glorot_uniform'
    kernel_penalty: Penalty | None = None

    def _matrices(self, expert):
        penalty = self.kernel_penalty
        if penalty is None:
            penalty = expert.kernel_penalty
        return {
            'kind': 'trans',
            'initializer': self.kernel_init,
            **penalty.coefficients(),
        }


def _options(
    expert: NetworkConfig, gate: GateConfig | None = None
) -> dict[str, Any]:
    """Returns the fields of a mixture for its gates and penalties."""
    gates = {} if gate is None else gate.options()
    return {**gates, **expert.penalties(), 'parent': None}


def _level_of(expert: NetworkConfig) -> Callable[..., nn.Module]:
    """Returns a function that makes a level's networks, the same on each."""

    def make(widths, *, activation, num, parent=None):
        del widths, activation
        return expert.network(num, parent=parent)

    return make
