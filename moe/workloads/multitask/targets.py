"""What a task predicts: its loss, its metrics, its predictions, by kind.

B examples, N examples of a whole set, O outputs.
"""

import abc
import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from moe.workloads.multitask import ranking


@dataclasses.dataclass(frozen=True)
class Target(abc.ABC):
    """One task.

    Attributes:
      name: of the task.
      classes: names of its classes, () for other kinds.
      loss_name: the metric that is the loss.
      headline: the metric that an evaluation's line tells.
    """

    name: str
    classes: tuple[str, ...] = ()
    loss_name: ClassVar[str] = 'log_loss'
    headline: ClassVar[str]

    @property
    def num_outputs(self) -> int:
        """O."""
        return max(1, len(self.classes))

    @abc.abstractmethod
    def loss(
        self, outputs: Float[Array, 'B O'], label: Float[Array, 'B']
    ) -> Float[Array, 'B']:
        """Returns each example's loss, float32, cross-entropies in nats."""

    @abc.abstractmethod
    def predictions(
        self, outputs: Float[np.ndarray, 'N O']
    ) -> dict[str, list[Any]]:
        """Returns columns of what is predicted, by name."""

    @abc.abstractmethod
    def _metrics(self, outputs, label, mask, user) -> dict[str, float]:
        """All metrics of the kind, nan where they cannot be told."""

    def metrics(
        self,
        outputs: Float[np.ndarray, 'N O'],
        label: Float[np.ndarray, 'N'],
        mask: Bool[np.ndarray, 'N'],
        user: Any = None,
    ) -> dict[str, float]:
        """Returns what `moe.workloads.multitask.ranking` tells.

        Args:
          outputs: of the model.
          label: the labels.
          mask: of the labels there are.
          user: int32 [N]; None without users.

        Returns:
          Metrics by name; those that these labels do not allow are absent.
          The loss of outputs that are no numbers is none either.
        """
        with np.errstate(invalid='ignore'):
            found = self._metrics(outputs, label, mask, user)
        lost = np.any(mask) and not np.all(np.isfinite(outputs[mask]))
        kept = (self.loss_name,) if lost else ()
        return {n: v for n, v in found.items() if n in kept or np.isfinite(v)}


class Binary(Target):
    """Yes or no: one logit, predicted as a probability."""

    headline = 'auc'

    def loss(self, outputs, label):
        """Returns the cross-entropies."""
        return optax.sigmoid_binary_cross_entropy(outputs[:, 0], label)

    def predictions(self, outputs):
        """Returns the probability of yes."""
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


class Classes(Target):
    """One of some classes: a logit of each; labels are their numbers."""

    headline = 'accuracy'

    def loss(self, outputs, label):
        """Returns the cross-entropies."""
        return optax.softmax_cross_entropy_with_integer_labels(
            outputs, label.astype(jnp.int32)
        )

    def predictions(self, outputs):
        """Returns the likeliest class, and each one's chance as TASK:CLASS."""
        z = outputs.astype(np.float64)
        powers = np.exp(z - np.max(z, axis=1, keepdims=True))
        chance = powers / np.sum(powers, axis=1, keepdims=True)
        best = [self.classes[c] for c in np.argmax(z, axis=1)]
        each = enumerate(self.classes)
        return {
            self.name: best,
            **{f'{self.name}:{n}': chance[:, c].tolist() for c, n in each},
        }

    def _metrics(self, outputs, label, mask, user):
        return {
            'accuracy': ranking.accuracy(outputs, label, mask),
            'log_loss': ranking.log_loss(outputs, label, mask),
        }


class Regression(Target):
    """A number."""

    headline = loss_name = 'mse'

    def loss(self, outputs, label):
        """Returns the squared errors."""
        return jnp.square(outputs[:, 0] - label)

    def predictions(self, outputs):
        """Returns the numbers."""
        return {self.name: outputs[:, 0].astype(np.float64).tolist()}

    def _metrics(self, outputs, label, mask, user):
        number = outputs[:, 0].astype(np.float64)
        return {'mse': ranking.mse(number, label, mask)}


KINDS: dict[str, type[Target]] = {
    'binary': Binary,
    'classes': Classes,
    'regression': Regression,
}


def _sigmoid(x: Any) -> Any:
    return 0.5 * (1 + np.tanh(0.5 * x))
