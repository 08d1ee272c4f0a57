"""Multi-task models: features, a mixture, and a tower for each task.

B examples, T tasks, D features, H width between mixture and towers, O outputs.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

import flax.linen as nn
import numpy as np
from jaxtyping import Array, Float, Shaped

from moe.config import OneOf
from moe.parameters import declare_all, parameter
from moe.types import Aux
from moe.workloads.multitask.features import FEATURES, Embedding
from moe.workloads.multitask.mixtures import MIXTURES, mmoe
from moe.workloads.multitask.networks import NetworkConfig, TowersConfig

# Fields that the workload fills in from the data, and no config has.
_TABLES = frozenset({'sizes', 'table_of'})


@dataclasses.dataclass(frozen=True)
class MultiTaskConfig:
    """The config of a multi-task model.

    Attributes:
      features: how numbers and categories become the input.
      mixture: the mixture between features and towers.
      expert: the networks of the mixture.
      towers: the networks of each task.
    """

    features: Annotated[Any, OneOf(FEATURES, _TABLES)] = Embedding
    mixture: Annotated[Any, OneOf(MIXTURES)] = mmoe
    expert: NetworkConfig = field(default_factory=NetworkConfig)
    towers: TowersConfig = field(default_factory=TowersConfig)

    @property
    def has_penalty(self) -> bool:
        """Whether weights of the mixture are regularised."""
        own = getattr(self.mixture, 'kernel_penalty', None)
        networks = (self.expert.kernel_penalty, self.expert.bias_penalty)
        return any(p and (p.l1 or p.l2) for p in (own, *networks))

    def build(
        self,
        num_tasks: int,
        num_outputs: int,
        *,
        tables: Mapping[str, int] | None = None,
        table_of: tuple[str, ...] = (),
        learned: tuple[str, ...] = (),
    ) -> 'MultiTask':
        """Makes the linen module.

        Args:
          num_tasks: T.
          num_outputs: O, the largest number of outputs of a task.
          tables: number of ids of each table of categories, by name.
          table_of: name of the table of each categorical column.
          learned: names of learned weights, see `MultiTask`.
        """
        names = list(tables or {})
        features = self.features(
            sizes=tuple((tables or {}).values()),
            table_of=tuple(names.index(name) for name in table_of),
            parent=None,
        )
        mixture = self.mixture(self.expert, num_tasks)
        towers = self.towers.build(num_tasks, num_outputs)
        return MultiTask(features, mixture, towers, learned)


class MultiTask(nn.Module):
    """A multi-task model: features, a mixture, and towers.

    Attributes:
      features: a module from a batch to [B, D].
      mixture: a module from [B, D] to [B, T, H] and an Aux.
      towers: a module from [B, T, H] to [B, T, O], a network for each task.
      learned: names of parameters [T], initially 0, that task balancing reads;
        see `moe.workloads.multitask.balancing`.
    """

    features: nn.Module
    mixture: nn.Module
    towers: nn.Module
    learned: tuple[str, ...] = ()

    @nn.compact
    def __call__(
        self, batch: Mapping[str, Shaped[Array, 'B ...']], train: bool = False
    ) -> tuple[Float[Array, 'B T O'], Aux]:
        """Predicts for a batch.

        Args:
          batch: inputs of the features, and 'valid', bool [B], if rows may be
            padding.
          train: whether this is training. Randomness comes from the 'router'
            rng stream.

        Returns:
          Logits or predictions, float32, and the mixture's Aux.
        """
        x = self.features(batch)
        shared, aux = self.mixture(x, train=train, mask=batch.get('valid'))
        out = self.towers(shared)
        declare_all(self.towers, first_axis='task')
        zeros, shape = nn.initializers.zeros_init(), out.shape[1:2]
        for name in self.learned:
            parameter(self, name, zeros, shape, axes=('task',), decay=False)
        return out, aux


def gate_metrics(stats: Mapping[str, Any], tasks: list[str]) -> dict[str, Any]:
    """Names a mixture's statistics by gate.

    Args:
      stats: scalars, or arrays [N, ...] of N gates, by STATISTIC or
        LEVEL/STATISTIC, NumPy.
      tasks: names of the T tasks.

    Returns:
      `moe/[LEVEL.]GATE/STATISTIC` to floats or lists; gates are named after
      the tasks, the one after T 'shared', a single one 'all', and others by
      their number.
    """
    found: dict[str, Any] = {}
    for name, values in stats.items():
        level, _, statistic = name.rpartition('/')
        values = np.atleast_1d(values)
        gates = {
            1: ['all'],
            len(tasks): tasks,
            len(tasks) + 1: [*tasks, 'shared'],
        }.get(len(values), [str(i) for i in range(len(values))])
        for gate, value in zip(gates, values, strict=True):
            place = f'{level}.{gate}' if level else gate
            found[f'moe/{place}/{statistic}'] = value.tolist()
    return found
