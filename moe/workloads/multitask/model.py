"""Models of several tasks: features, a mixture, a tower for each task.

B examples, T tasks, D features, H width between mixture and towers, O outputs.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import flax.linen as nn
import numpy as np
from jaxtyping import Array, Float, Shaped

from moe.config import (
    ConfigError,
    Fraction,
    NaturalFloat,
    OneOf,
    PositiveFloat,
    PositiveInt,
    Registry,
)
from moe.experts import BatchNorm, Network, Renorm
from moe.layers.multitask import softmax
from moe.parameters import declare_all, parameter
from moe.routing import ROUTERS
from moe.types import Aux, Router, traits_of
from moe.workloads.multitask.features import Features, FeaturesConfig
from moe.workloads.multitask.mixtures import MIXTURES

Activation = Literal['gelu', 'linear', 'relu', 'sigmoid', 'silu', 'tanh']

# Routers that need nothing but the logits, and noise.
_GATES: dict[str, Router] = {
    'softmax': softmax,
    **{
        name: router
        for name, router in ROUTERS.items()
        if name not in ('expert_choice', 'replay', 'soft')
        and traits_of(router).uses <= {'noise_logits'}
    },
}

GATES = Registry('gate')
for _n, _r in _GATES.items():
    GATES.register(_n)(_r)


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Feed-forward networks, as a config describes them.

    Attributes:
      widths: of the layers.
      activation: of all layers but the last.
      output_activation: of the last one.
      weight_norm: see `moe.experts.Network`.
      batch_norm: whether inputs and hidden layers are normalised.
      momentum: of the running averages.
      renorm: whether by batch renormalisation.
      renorm_momentum: of its running averages.
      l1: coefficient of the kernels' absolute weights in the auxiliary loss
        'regularization'.
      l2: of their squares.
      bias_l2: of the biases' squares.
    """

    widths: tuple[PositiveInt, ...]
    activation: Activation
    output_activation: Activation
    weight_norm: Literal['none', 'fixed', 'learned']
    batch_norm: bool
    momentum: Fraction
    renorm: bool
    renorm_momentum: Fraction
    l1: NaturalFloat
    l2: NaturalFloat
    bias_l2: NaturalFloat

    def __post_init__(self):
        if not self.widths:
            raise ConfigError('widths', self.widths, 'at least one width')
        if self.renorm and not self.batch_norm:
            raise ConfigError('renorm', True, 'False without batch_norm')

    def network(self, **options: Any) -> Network:
        """A network, or with `num` several in parallel; options are others."""
        hidden = (self.activation,) * (len(self.widths) - 1)
        norm = None
        if self.batch_norm:
            renorm = Renorm(self.renorm_momentum) if self.renorm else None
            norm = functools.partial(
                BatchNorm, momentum=self.momentum, renorm=renorm
            )
        given: dict[str, Any] = {
            'widths': self.widths,
            'activation': (*hidden, self.output_activation),
            'weight_norm': self.weight_norm,
            'batch_norm': norm,
            'parent': None,
        }
        return Network(**{**given, **options})


@dataclasses.dataclass(frozen=True)
class GateConfig:
    """The gates of a mixture, see `moe.layers.multitask.MultiGate`."""

    router: Annotated[Router, OneOf(GATES)]
    temperature: PositiveFloat
    dropout: Fraction

    def __post_init__(self):
        if self.dropout >= 1:
            raise ConfigError('dropout', self.dropout, 'less than 1')


@dataclasses.dataclass(frozen=True)
class MultiTaskConfig:
    """A model of several tasks, as a config describes it.

    Attributes:
      features: how categories become numbers.
      mixture: what lies between features and towers.
      expert: each of its networks.
      gate: its gates, where it has any.
      tower_widths: hidden widths of a task's own network, before its head.
    """

    features: FeaturesConfig
    mixture: Annotated[Any, OneOf(MIXTURES)]
    expert: NetworkConfig
    gate: GateConfig
    tower_widths: tuple[PositiveInt, ...]

    def build(
        self,
        num_tasks: int,
        num_outputs: int,
        *,
        num_numeric: int,
        tables: Mapping[str, int] | None = None,
        table_of: tuple[str, ...] = (),
    ) -> 'MultiTask':
        """The linen module.

        Args:
          num_tasks: T.
          num_outputs: O, of the task with most of them.
          num_numeric: numeric inputs.
          tables: ids in each table of categories.
          table_of: table of each categorical column.
        """
        names = list(tables or {})
        features = Features(
            sizes=tuple((tables or {}).values()),
            table_of=tuple(names.index(name) for name in table_of),
            config=self.features,
            parent=None,
        )
        gates = {
            'router': self.gate.router,
            'temperature': self.gate.temperature,
            'dropout': self.gate.dropout,
            'kernel_penalty': {'l1': self.expert.l1, 'l2': self.expert.l2},
            'bias_penalty': {'l2': self.expert.bias_l2},
            'parent': None,
        }
        mixture = self.mixture(self.expert.network, num_tasks, gates)
        towers = Network(
            (*self.tower_widths, num_outputs), num_tasks, parent=None
        )
        return MultiTask(features, mixture, towers)


class MultiTask(nn.Module):
    """Features, a mixture, and towers.

    Attributes:
      features: a batch -> [B, D].
      mixture: [B, D] -> [B, T, H] and an Aux.
      towers: [B, T, H] -> [B, T, O], each task its own.
      num_variances: T for a learned log-variance of each task's loss, which
        the objective reads from the parameters; 0 for none.
    """

    features: nn.Module
    mixture: nn.Module
    towers: nn.Module
    num_variances: int = 0

    @nn.compact
    def __call__(
        self, batch: Mapping[str, Shaped[Array, 'B ...']], train: bool = False
    ) -> tuple[Float[Array, 'B T O'], Aux]:
        """Predicts.

        Args:
          batch: what `Features` reads, and 'live', bool [B], where rows may be
            padding.
          train: training. Randomness comes from the 'router' rng stream.

        Returns:
          Logits or predictions, float32, and the mixture's Aux.
        """
        x = self.features(batch)
        shared, aux = self.mixture(x, train=train, mask=batch.get('live'))
        out = self.towers(shared)
        declare_all(self.towers, first_axis='task')
        if self.num_variances:
            zeros = nn.initializers.zeros_init()
            shape = (self.num_variances,)
            parameter(
                self, 'log_variance', zeros, shape, axes=('task',), decay=False
            )
        return out, aux


def gate_metrics(stats: Mapping[str, Any], tasks: list[str]) -> dict[str, Any]:
    """Names a mixture's statistics by gate.

    Args:
      stats: NumPy, scalars or of N gates [N, ...], by STATISTIC or
        LEVEL/STATISTIC.
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
