"""Optimizers, from optax by name."""

import abc
import dataclasses
from typing import Annotated, Any

import jax
import optax

from moe.config import (
    ConfigError,
    Fraction,
    NaturalFloat,
    OneOf,
    PositiveFloat,
    PositiveInt,
    Registry,
)
from moe.training.schedules import SCHEDULES, Schedule, cosine

OPTIMIZERS = Registry('optimizer')

# Not decayed: what scales or shifts, and routers, whose decay would flatten
# the gates.
_UNDECAYED = [
    'scale',
    'bias',
    'router',
    'norm',
    'gamma',
    'beta',
    'log_',
    'stitch',
]


def decayed(params: Any) -> Any:
    """Which parameters weight decay acts on: no norms, biases or routers.

    Args:
      params: the parameters; a leaf's last key names it.

    Returns:
      The same tree of bools.
    """

    def decay(path, _):
        name = path[-1].key
        return not any(part in name for part in _UNDECAYED)

    return jax.tree_util.tree_map_with_path(decay, params)


@dataclasses.dataclass(frozen=True)
class Optimizer(abc.ABC):
    """What every optimizer has: the steps around its own rule.

    An optimizer is a frozen dataclass below this one whose own fields are its
    options, registered in `OPTIMIZERS`.

    Attributes:
      learning_rate: peak of the schedule.
      schedule: learning rate over the steps, an entry of `SCHEDULES`.
      weight_decay: decoupled weight decay, times the learning rate, of
        matrices: not of norms, biases and gates.
      clip_norm: largest global norm of the gradient; None clips nothing.
      accumulation: number of microbatches whose mean gradient makes a step.
    """

    learning_rate: PositiveFloat = 3e-3
    schedule: Annotated[Schedule, OneOf(SCHEDULES)] = cosine
    weight_decay: NaturalFloat = 0.1
    clip_norm: PositiveFloat | None = 1.0
    accumulation: PositiveInt = 1

    @abc.abstractmethod
    def transform(
        self, learning_rate: optax.Schedule
    ) -> optax.GradientTransformation:
        """Returns the optimizer's own rule, learning rate and decay included.

        Args:
          learning_rate: a function of the step.
        """

    def learning_rates(self, steps: int) -> optax.Schedule:
        """Returns the learning rate as a function of the step.

        Args:
          steps: number of steps of the whole run.

        Raises:
          ConfigError: if the schedule does not fit into so many steps.
        """
        try:
            return self.schedule(self.learning_rate, steps)
        except ConfigError as error:
            raise error.inside('schedule') from None


@OPTIMIZERS.register('adamw')
@dataclasses.dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay. Source: arXiv 1711.05101.

    Attributes:
      b1: decay of the first moment, of the gradient.
      b2: decay of the second moment, of its square.
    """

    b1: Fraction = 0.9
    b2: Fraction = 0.95

    def transform(self, learning_rate):
        """Returns optax's adamw."""
        return optax.adamw(
            learning_rate,
            self.b1,
            self.b2,
            weight_decay=self.weight_decay,
            mask=decayed,
        )


@OPTIMIZERS.register('lion')
@dataclasses.dataclass(frozen=True)
class Lion(Optimizer):
    """The sign of a momentum. Source: arXiv 2302.06675.

    Attributes:
      b1: share of the momentum in the step.
      b2: decay of the momentum.
    """

    b1: Fraction = 0.9
    b2: Fraction = 0.95

    def transform(self, learning_rate):
        """Returns optax's lion."""
        return optax.lion(
            learning_rate,
            self.b1,
            self.b2,
            weight_decay=self.weight_decay,
            mask=decayed,
        )


@OPTIMIZERS.register('adafactor')
@dataclasses.dataclass(frozen=True)
class Adafactor(Optimizer):
    """Second moments as rows and columns. Source: arXiv 1804.04235."""

    def transform(self, learning_rate):
        """Returns factored moments, clipped by blocks, without momentum."""
        return optax.chain(
            optax.scale_by_factored_rms(),
            optax.clip_by_block_rms(1.0),
            optax.add_decayed_weights(self.weight_decay, decayed),
            optax.scale_by_learning_rate(learning_rate),
        )


@OPTIMIZERS.register('muon')
@dataclasses.dataclass(frozen=True)
class Muon(Optimizer):
    """Orthogonalised momentum for matrices, Adam for the rest.

    Source: Jordan et al., https://kellerjordan.github.io/posts/muon.
    """

    def transform(self, learning_rate):
        """Returns optax's muon, with the decay of the other optimizers."""
        # Its own decay knows no mask for what Adam has.
        return optax.chain(
            optax.contrib.muon(1.0, muon_weight_dimension_numbers=_matrices),
            optax.scale(-1.0),
            optax.add_decayed_weights(self.weight_decay, decayed),
            optax.scale_by_learning_rate(learning_rate),
        )


def make_optimizer(
    optimizer: Optimizer, steps: int
) -> optax.GradientTransformation:
    """Returns clipping by the global norm, then the optimizer's own rule.

    Args:
      optimizer: an entry of `OPTIMIZERS`, with its options.
      steps: number of steps of the whole run.
    """
    own = optimizer.transform(optimizer.learning_rates(steps))
    if optimizer.clip_norm is None:
        return own
    return optax.chain(optax.clip_by_global_norm(optimizer.clip_norm), own)


def _matrices(params: Any) -> Any:
    """Muon orthogonalises the matrices inside the stack; Adam has the rest."""
    inputs_outputs = {
        'up': (-2, -1),
        'gate': (-2, -1),
        'down': (-2, -1),
        'query': (-3, (-2, -1)),
        'key': (-3, (-2, -1)),
        'value': (-3, (-2, -1)),
        'out': ((-3, -2), -1),
    }

    def numbers(path, leaf):
        axes = inputs_outputs.get(path[-1].key)
        if axes is None:
            return None
        absolute = lambda a: (
            tuple(leaf.ndim + i for i in a)
            if isinstance(a, tuple)
            else leaf.ndim + a
        )
        return optax.contrib.MuonDimensionNumbers(
            absolute(axes[0]), absolute(axes[1])
        )

    return jax.tree_util.tree_map_with_path(numbers, params)
