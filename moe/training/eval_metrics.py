"""The registry of evaluation metrics, functions of a batch's predictions.

A config chooses them in `metrics`; each is logged as `eval/NAME`, or as
`eval/TASK/NAME` if there are several tasks. A function and a decorator, here
or in a plugin, add one:

    @METRICS.register('calibration_gap')
    def calibration_gap(predictions: Predictions) -> Mean: ...
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from moe.config import PositiveInt, Registry
from moe.training.workload import Mean, Predictions, Workload, masked_means

METRICS = Registry('evaluation metric')

# From the predictions of a batch to a mean over its examples, as a sum and a
# count that add up over batches; None for predictions of another kind.
Metric = Callable[[Predictions], Mean | None]
M = TypeVar('M', bound=Callable)


def higher_is_better(metric: M) -> M:
    """Declares that higher values of a metric are better; lower by default."""
    metric.higher_is_better = True  # type: ignore[attr-defined]
    return metric


@METRICS.register('top_k_accuracy')
@higher_is_better
def top_k_accuracy(
    predictions: Predictions, *, k: PositiveInt = 1
) -> Mean | None:
    """Returns the share of labels that are among the k likeliest classes.

    Of equal logits the class with the lower number is the likelier.

    Args:
      predictions: predictions of a batch.
      k: number of classes; all of them if there are fewer.

    Returns:
      The mean; None for binary and numeric predictions.
    """
    if predictions.logits.shape[-1] == 1:
        return None
    found = in_top_k(predictions, k)
    return masked_means(predictions.mask, found=found)['found']


def in_top_k(predictions: Predictions, k: int) -> Bool[Array, '...']:
    """Returns whether the label is among the k likeliest classes.

    Args:
      predictions: predictions of classes.
      k: number of classes; all of them if there are fewer.
    """
    logits, labels, _ = predictions
    _, likeliest = jax.lax.top_k(logits, min(k, logits.shape[-1]))
    return jnp.any(likeliest == labels[..., None].astype(jnp.int32), axis=-1)


def is_higher_better(workload: Workload, name: str) -> bool:
    """Whether runs with higher values of an evaluation metric are better.

    Args:
      workload: workload of the runs.
      name: name of the metric, as it is logged.
    """
    last = name.rpartition('/')[2]
    registered = METRICS.get(last)
    declared = getattr(registered, 'higher_is_better', False)
    return declared or last in workload.higher_is_better
