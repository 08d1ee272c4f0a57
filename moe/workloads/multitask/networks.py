"""The configs of the networks of multi-task models."""

import dataclasses
import functools
from typing import Annotated, Any

import flax.linen as nn

from moe.config import (
    AtLeast,
    ConfigError,
    Fraction,
    NaturalFloat,
    PositiveFloat,
    PositiveInt,
)
from moe.experts import BatchNorm, Network, Networks, Renorm
from moe.experts.network import ActivationName, InitializerName, WeightNorm


@dataclasses.dataclass(frozen=True)
class Penalty:
    """A penalty on weights, part of the auxiliary loss `regularization`.

    Attributes:
      l1: coefficient of the sum of the absolute weights.
      l2: coefficient of the sum of the squared weights.
    """

    l1: NaturalFloat = 0.0
    l2: NaturalFloat = 0.0

    def coefficients(self) -> dict[str, float]:
        """Returns the penalty as `moe.experts.regularization` takes it."""
        return dict(vars(self))


@dataclasses.dataclass(frozen=True)
class Renormalization:
    """Batch renormalisation; see `moe.experts.Renorm`.

    Attributes:
      momentum: momentum of the running averages of the correction.
      rmax: greatest correction of the scale; None clips nothing.
      rmin: least correction of the scale; None is 1 / rmax.
      dmax: greatest correction of the mean; None clips nothing.
    """

    momentum: Fraction = 0.99
    rmax: Annotated[float, AtLeast(1.0)] | None = None
    rmin: Fraction | None = None
    dmax: NaturalFloat | None = None

    def build(self) -> Renorm:
        """Returns the `moe.experts.Renorm` of this config."""
        clips = {'rmax': self.rmax, 'rmin': self.rmin, 'dmax': self.dmax}
        given = {name: v for name, v in clips.items() if v is not None}
        return Renorm(self.momentum, **given)


@dataclasses.dataclass(frozen=True)
class Normalization:
    """Batch normalisation of a network's input and hidden layers.

    Attributes:
      momentum: momentum of the running averages.
      epsilon: what is added to the variance.
      renorm: batch renormalisation; None for plain batch normalisation.
    """

    momentum: Fraction = 0.99
    epsilon: PositiveFloat = 1e-3
    renorm: Renormalization | None = None

    def maker(self) -> Any:
        """Returns a factory of `BatchNorm`, for `moe.experts.Network`."""
        return functools.partial(
            BatchNorm,
            momentum=self.momentum,
            epsilon=self.epsilon,
            renorm=None if self.renorm is None else self.renorm.build(),
        )


@dataclasses.dataclass(frozen=True)
class NetworkChanges:
    """Fields of one network that differ from the others; None is no change.

    Attributes:
      widths: widths of its layers.
      activation: activation of all of its layers but the last.
      output_activation: activation of its last layer.
      kernel_init: initialiser of its kernels.
    """

    widths: tuple[PositiveInt, ...] | None = None
    activation: ActivationName | None = None
    output_activation: ActivationName | None = None
    kernel_init: InitializerName | None = None


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Feed-forward networks side by side; see `moe.experts.Network`.

    Attributes:
      widths: widths of the layers of each network.
      activation: activation of all layers but the last.
      output_activation: activation of the last layer.
      kernel_init: initialiser of the kernels.
      use_bias: whether each layer has a bias.
      weight_norm: weight normalisation, whose scale is learned, fixed at its
        first value, or of unit length.
      batch_norm: batch normalisation of the input and the hidden layers; None
        for none.
      kernel_penalty: penalty of the kernels.
      bias_penalty: penalty of the biases.
      each: for networks that differ, the changes of each of them, all of one
        last width.
    """

    widths: tuple[PositiveInt, ...] = (16,)
    activation: ActivationName = 'relu'
    output_activation: ActivationName = 'relu'
    kernel_init: InitializerName = 'glorot_uniform'
    use_bias: bool = True
    weight_norm: WeightNorm = 'none'
    batch_norm: Normalization | None = None
    kernel_penalty: Penalty = Penalty()
    bias_penalty: Penalty = Penalty()
    each: tuple[NetworkChanges, ...] = ()

    def __post_init__(self):
        if not self.widths:
            raise ConfigError('widths', self.widths, 'at least one width')
        for i, changes in enumerate(self.each):
            widths = self.widths if changes.widths is None else changes.widths
            if widths[-1:] != self.widths[-1:]:
                allowed = f'of the last width that widths has: {self.widths}'
                raise ConfigError(f'each[{i}].widths', widths, allowed)

    def network(
        self, num: int | None = None, *, parent: Any = None
    ) -> nn.Module:
        """Makes one network, or several side by side.

        Args:
          num: N, how many are side by side; None for one.
          parent: linen parent of the module.

        Returns:
          A module [B, D] or [B, N, D] -> [B, N, H], or [B, D] -> [B, H].

        Raises:
          ConfigError: if `each` is of another number of networks.
        """
        if not self.each:
            return self._network(num, parent)
        if len(self.each) != num:
            raise ConfigError(
                'config.model.expert.each',
                self.each,
                f'() or one section for each of the {num or 1} networks that '
                f'are side by side (there are {len(self.each)})',
            )
        networks = tuple(self.changed(one)._network() for one in self.each)
        return Networks(networks, parent=parent)

    def changed(self, changes: NetworkChanges) -> 'NetworkConfig':
        """Returns the description of one network with its changes.

        Args:
          changes: fields that differ.
        """
        given = {
            field.name: getattr(changes, field.name)
            for field in dataclasses.fields(changes)
            if getattr(changes, field.name) is not None
        }
        return dataclasses.replace(self, **given, each=())

    def penalties(self) -> dict[str, dict[str, float]]:
        """Returns the penalties, by the names of the mixtures' fields."""
        return {
            'kernel_penalty': self.kernel_penalty.coefficients(),
            'bias_penalty': self.bias_penalty.coefficients(),
        }

    def _network(self, num=None, parent=None) -> Network:
        hidden = (self.activation,) * (len(self.widths) - 1)
        norm = None if self.batch_norm is None else self.batch_norm.maker()
        return Network(
            self.widths,
            num,
            activation=(*hidden, self.output_activation),
            kernel_init=self.kernel_init,
            use_bias=self.use_bias,
            weight_norm=self.weight_norm,
            batch_norm=norm,
            parent=parent,
        )


@dataclasses.dataclass(frozen=True)
class TowerChanges:
    """Fields of one task's tower that differ; None is no change.

    Attributes:
      widths: its hidden widths.
      activation: activation of its hidden layers.
    """

    widths: tuple[PositiveInt, ...] | None = None
    activation: ActivationName | None = None


@dataclasses.dataclass(frozen=True)
class TowersConfig:
    """The networks of the tasks, from the mixture to the predictions.

    Attributes:
      widths: hidden widths of each task's network, before its linear head.
      activation: activation of the hidden layers.
      each: for towers that differ, the changes of each task's.
    """

    widths: tuple[PositiveInt, ...] = (8,)
    activation: ActivationName = 'relu'
    each: tuple[TowerChanges, ...] = ()

    def build(self, num_tasks: int, num_outputs: int) -> nn.Module:
        """Makes the towers.

        Args:
          num_tasks: T.
          num_outputs: O, the outputs of each tower.

        Returns:
          A module [B, T, H] -> [B, T, O].

        Raises:
          ConfigError: if `each` is of another number of tasks.
        """
        if not self.each:
            widths = (*self.widths, num_outputs)
            return Network(
                widths, num_tasks, activation=self.activation, parent=None
            )
        if len(self.each) != num_tasks:
            allowed = f'() or one section for each of {num_tasks} tasks'
            raise ConfigError('config.model.towers.each', self.each, allowed)
        towers = []
        for changes in self.each:
            hidden = self.widths if changes.widths is None else changes.widths
            activation = changes.activation or self.activation
            towers.append(
                Network(
                    (*hidden, num_outputs), activation=activation, parent=None
                )
            )
        return Networks(tuple(towers), parent=None)
