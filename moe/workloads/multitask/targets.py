"""The registry of targets: a task's loss, metrics and predictions.

B examples, N examples of a whole set, O outputs.
"""

import abc
import dataclasses
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from moe.config import Registry
from moe.workloads.multitask import ranking

TARGETS = Registry('target')


@dataclasses.dataclass(frozen=True)
class Target(abc.ABC):
    """The target of one task: its loss, metrics and predictions.

    Subclasses are frozen dataclasses, registered in `TARGETS`; their own
    fields are options of the section `target` of a label.

    Attributes:
      name: name of the task.
      classes: names of its classes, () for targets without any.
      reads: how a column's text becomes labels: 1 for the `positive` values
        and 0 for others, the number of a class, or the number itself.
      standardize: whether the mean and deviation of the training rows' numbers
        are given to `of_task`.
      primary_metric: name of the metric that is printed during training.
      squared: whether the loss is a squared error, which uncertainty weighting
        scales by a half.
    """

    name: str = ''
    classes: tuple[str, ...] = ()
    reads: ClassVar[Literal['positive', 'class', 'number']]
    standardize = False
    primary_metric: ClassVar[str]
    squared: ClassVar[bool] = False

    def of_task(
        self, name: str, classes: tuple[str, ...] = (), **learned: float
    ) -> 'Target':
        """Returns the target of one task.

        Args:
          name: name of the task.
          classes: names of its classes, from the training rows.
          **learned: `label_mean` and `label_deviation` with `standardize`.
        """
        return dataclasses.replace(self, name=name, classes=classes, **learned)

    def encoded(self, number: np.ndarray) -> np.ndarray:
        """Returns numbers as the labels that are learned, float64 [n].

        Args:
          number: numbers of the table, float64 [n], nan where there is none.
        """
        return number

    @property
    def loss_name(self) -> str:
        """Returns the name of the metric that is the loss."""
        return 'log_loss'

    @property
    def num_outputs(self) -> int:
        """Returns O, the number of the model's outputs for the target."""
        return max(1, len(self.classes))

    @abc.abstractmethod
    def loss(
        self, outputs: Float[Array, 'B O'], label: Float[Array, 'B']
    ) -> Float[Array, 'B']:
        """Returns each example's loss, in nats where it is an entropy.

        Args:
          outputs: outputs of the model, float32.
          label: labels, float32; numbers of classes.

        Returns:
          Float32.
        """

    @abc.abstractmethod
    def predictions(
        self, outputs: Float[np.ndarray, 'N O']
    ) -> dict[str, list[Any]]:
        """Returns columns of predictions by name.

        Args:
          outputs: outputs of the model, float32.
        """

    @abc.abstractmethod
    def _metrics(self, outputs, label, mask, user) -> dict[str, float]:
        """Returns all metrics, NaN for those that the labels do not allow.

        The arguments are those of `metrics`.
        """

    def metrics(
        self,
        outputs: Float[np.ndarray, 'N O'],
        label: Float[np.ndarray, 'N'],
        mask: Bool[np.ndarray, 'N'],
        user: Any = None,
    ) -> dict[str, float]:
        """Returns the metrics of `moe.workloads.multitask.ranking` that apply.

        Args:
          outputs: outputs of the model, float32.
          label: the labels, float32.
          mask: True for existing labels.
          user: users of the examples, int32 [N]; None without users.

        Returns:
          Metrics by name, without undefined ones. If an output is NaN or
          infinite, the loss is there though it is so too.
        """
        with np.errstate(invalid='ignore'):
            found = self._metrics(outputs, label, mask, user)
        lost = np.any(mask) and not np.all(np.isfinite(outputs[mask]))
        kept = (self.loss_name,) if lost else ()
        return {n: v for n, v in found.items() if n in kept or np.isfinite(v)}


@TARGETS.register('binary')
@dataclasses.dataclass(frozen=True)
class Binary(Target):
    """A binary label: one logit, predicted as a probability.

    Attributes:
      positive: the values of the column that are 1; all others are 0.
    """

    positive: tuple[str, ...] = ()
    reads = 'positive'
    primary_metric = 'auc'

    def loss(self, outputs, label):
        """Returns the cross-entropy of each example, in nats."""
        return optax.sigmoid_binary_cross_entropy(outputs[:, 0], label)

    def predictions(self, outputs):
        """Returns the probability of 1."""
        return {self.name: _sigmoid(np.float64(outputs[:, 0])).tolist()}

    def _metrics(self, outputs, label, mask, user):
        logit = outputs[:, 0].astype(np.float64)
        found = {
            'auc': ranking.auc(logit, label, mask),
            'log_loss': ranking.log_loss(logit, label, mask),
            'calibration': ranking.calibration(_sigmoid(logit), label, mask),
        }
        if user is not None:
            found['gauc'] = ranking.gauc(logit, label, user, mask)
        return found


@TARGETS.register('classes')
@dataclasses.dataclass(frozen=True)
class Classes(Target):
    """One of several classes, with a logit for each.

    Labels are the numbers of the classes, in the order of their names.
    """

    reads = 'class'
    primary_metric = 'accuracy'

    def loss(self, outputs, label):
        """Returns the cross-entropy of each example, in nats."""
        return optax.softmax_cross_entropy_with_integer_labels(
            outputs, label.astype(jnp.int32)
        )

    def predictions(self, outputs):
        """Returns the likeliest class, and probabilities as TASK:CLASS."""
        z = outputs.astype(np.float64)
        powers = np.exp(z - np.max(z, axis=1, keepdims=True))
        share = powers / np.sum(powers, axis=1, keepdims=True)
        best = [self.classes[c] for c in np.argmax(z, axis=1)]
        each = enumerate(self.classes)
        return {
            self.name: best,
            **{f'{self.name}:{n}': share[:, c].tolist() for c, n in each},
        }

    def _metrics(self, outputs, label, mask, user):
        return {
            'accuracy': ranking.accuracy(outputs, label, mask),
            'log_loss': ranking.log_loss(outputs, label, mask),
        }


@TARGETS.register('regression')
@dataclasses.dataclass(frozen=True)
class Regression(Target):
    """A number, with the squared error of the transformed number as the loss.

        z = (y - mean) / deviation,   or of log(1 + y) instead of y

    Predictions and `mse` are in the units of y; `scaled_mse` is that of z.

    Attributes:
      log1p: whether log(1 + y) is learned, for numbers of a long tail.
      standardize: whether the mean is taken off and the deviation divided by,
        both of the training rows.
      label_mean: the mean.
      label_deviation: the standard deviation.
    """

    log1p: bool = dataclasses.field(default=False, repr=False)
    standardize: bool = dataclasses.field(default=False, repr=False)
    label_mean: float = dataclasses.field(default=0.0, repr=False)
    label_deviation: float = dataclasses.field(default=1.0, repr=False)
    reads = 'number'
    primary_metric = 'mse'
    squared = True

    @property
    def loss_name(self):
        """Returns the name of the metric that is the loss."""
        return 'scaled_mse' if self.log1p or self.standardize else 'mse'

    def encoded(self, number):
        """Returns z."""
        with np.errstate(invalid='ignore', divide='ignore'):
            y = np.log1p(number) if self.log1p else number
        return (y - self.label_mean) / self.label_deviation

    def decoded(self, z: Any) -> Any:
        """Returns y of z, float64."""
        y = z.astype(np.float64) * self.label_deviation + self.label_mean
        with np.errstate(over='ignore'):
            return np.expm1(y) if self.log1p else y

    def loss(self, outputs, label):
        """Returns the squared error of each example."""
        return jnp.square(outputs[:, 0] - label)

    def predictions(self, outputs):
        """Returns the predicted numbers."""
        return {self.name: self.decoded(outputs[:, 0]).tolist()}

    def _metrics(self, outputs, label, mask, user):
        z = outputs[:, 0].astype(np.float64)
        of_y = ranking.mse(self.decoded(z), self.decoded(label), mask)
        of_z = ranking.mse(z, label, mask)
        return {'mse': of_y, self.loss_name: of_z}


def _sigmoid(x: Any) -> Any:
    return 0.5 * (1 + np.tanh(0.5 * x))
