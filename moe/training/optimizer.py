"""The registry of optimizers, most of them optax's."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
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
from moe.parameters import parts
from moe.training.schedules import SCHEDULES, Schedule, cosine

OPTIMIZERS = Registry('optimizer')


@dataclasses.dataclass(frozen=True)
class Optimizer(abc.ABC):
    """Options that every optimizer has.

    An optimizer is a frozen dataclass below this one whose own fields are its
    options, registered in `OPTIMIZERS`.

    Attributes:
      learning_rate: peak learning rate of the schedule.
      schedule: learning rate over the steps, an entry of `SCHEDULES`.
      weight_decay: decoupled weight decay, times the learning rate, of the
        parameters that declare it: matrices, not norms, biases and gates.
      clip_norm: largest global norm of the gradient; None clips nothing.
      accumulation: number of microbatches whose sums make a step.
      exact_accumulation: whether the balance loss too is that of all
        microbatches, for another forward pass; else it is taken for each.
      skip_above: a gradient whose norm is more than this many times the median
        of the last 64 makes no update; None for any finite norm.
      multipliers: factor of the learning rate of parts of the model, 1 for
        others: embedding, attention, router, experts, dense, head, other. 0
        leaves a part as it is, without decay.
    """

    learning_rate: PositiveFloat = 3e-3
    schedule: Annotated[Schedule, OneOf(SCHEDULES)] = cosine
    weight_decay: NaturalFloat = 0.1
    clip_norm: PositiveFloat | None = 1.0
    accumulation: PositiveInt = 1
    exact_accumulation: bool = False
    skip_above: PositiveFloat | None = None
    multipliers: Mapping[str, NaturalFloat] = dataclasses.field(
        default_factory=dict
    )

    @abc.abstractmethod
    def transform(
        self, learning_rate: optax.Schedule, parameters: Any
    ) -> optax.GradientTransformation:
        """Returns the optimizer's own rule, learning rate and decay included.

        Args:
          learning_rate: a function of the step.
          parameters: the declared parameters, a tree of `Parameter`; see
            `decayed` and `matrices`.
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

    def transform(self, learning_rate, parameters):
        """Returns optax's adamw."""
        return optax.adamw(
            learning_rate,
            self.b1,
            self.b2,
            weight_decay=self.weight_decay,
            mask=decayed(parameters),
        )


@OPTIMIZERS.register('lion')
@dataclasses.dataclass(frozen=True)
class Lion(Optimizer):
    """Steps by the sign of a momentum. Source: arXiv 2302.06675.

    Attributes:
      b1: share of the momentum in the step.
      b2: decay of the momentum.
    """

    b1: Fraction = 0.9
    b2: Fraction = 0.95

    def transform(self, learning_rate, parameters):
        """Returns optax's lion."""
        return optax.lion(
            learning_rate,
            self.b1,
            self.b2,
            weight_decay=self.weight_decay,
            mask=decayed(parameters),
        )


@OPTIMIZERS.register('adafactor')
@dataclasses.dataclass(frozen=True)
class Adafactor(Optimizer):
    """Second moments factored in rows and columns. Source: arXiv 1804.04235."""

    def transform(self, learning_rate, parameters):
        """Returns factored moments, clipped by blocks, without momentum."""
        return optax.chain(
            optax.scale_by_factored_rms(),
            optax.clip_by_block_rms(1.0),
            optax.add_decayed_weights(self.weight_decay, decayed(parameters)),
            optax.scale_by_learning_rate(learning_rate),
        )


@OPTIMIZERS.register('muon')
@dataclasses.dataclass(frozen=True)
class Muon(Optimizer):
    """Orthogonalised momentum for matrices, Adam for other parameters.

    Source: Jordan et al., https://kellerjordan.github.io/posts/muon.
    """

    def transform(self, learning_rate, parameters):
        """Returns optax's muon, with the decay of the other optimizers."""
        numbers = matrices(parameters)
        # Its own decay has no mask for the parameters of its Adam.
        return optax.chain(
            optax.contrib.muon(
                1.0, muon_weight_dimension_numbers=lambda _: numbers
            ),
            optax.scale(-1.0),
            optax.add_decayed_weights(self.weight_decay, decayed(parameters)),
            optax.scale_by_learning_rate(learning_rate),
        )


def make_optimizer(
    optimizer: Optimizer, steps: int, parameters: Any
) -> optax.GradientTransformation:
    """Returns clipping, the optimizer's own rule, and its parts' multipliers.

    The gradient is clipped by its global norm.

    Args:
      optimizer: an entry of `OPTIMIZERS`, with its options.
      steps: number of steps of the whole run.
      parameters: the declared parameters, a tree of `Parameter`.
    """
    own = optimizer.transform(optimizer.learning_rates(steps), parameters)
    chain = [own]
    if optimizer.clip_norm is not None:
        chain.insert(0, optax.clip_by_global_norm(optimizer.clip_norm))
    if any(factor != 1 for factor in optimizer.multipliers.values()):
        chain.append(_multiplied(optimizer.multipliers, parameters))
    return chain[0] if len(chain) == 1 else optax.chain(*chain)


def _multiplied(
    multipliers: Mapping[str, float], parameters: Any
) -> optax.GradientTransformation:
    """Returns the multiplication of the updates, decay included, by part."""
    factors = jax.tree.map(
        lambda part: multipliers.get(part, 1.0), parts(parameters)
    )
    scale = lambda updates, params: jax.tree.map(jnp.multiply, updates, factors)
    return optax.stateless(scale)


def decayed(parameters: Any) -> Any:
    """Returns which parameters weight decay acts on, a tree of bools.

    Args:
      parameters: the declared parameters, a tree of `Parameter`.
    """
    return jax.tree.map(lambda p: p.decay, parameters)


def matrices(parameters: Any) -> Any:
    """Returns the axes of the matrices, for optax's muon; None for the rest.

    Args:
      parameters: the declared parameters, a tree of `Parameter`.
    """

    def numbers(parameter):
        if parameter.matrix is None:
            return None
        inputs, outputs = parameter.matrix
        axes = range(len(parameter.shape))
        return optax.contrib.MuonDimensionNumbers(
            tuple(axes[-outputs - inputs : -outputs]), tuple(axes[-outputs:])
        )

    return jax.tree.map(numbers, parameters)
