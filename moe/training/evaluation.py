"""Evaluation of batches, and the metrics of all batches together.

B examples a batch.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from moe.config import ConfigError
from moe.totals import Total
from moe.training.eval_metrics import METRICS, Metric
from moe.training.objective import totals_of
from moe.training.workload import Mean, Outputs, Workload


class EvalBatch(NamedTuple):
    """The result of evaluating one batch.

    Attributes:
      means: sums and counts of means, by name.
      rows: arrays [B, ...] of its examples, for metrics that are no means.
      stats: the statistics of the mixtures; None without mixtures.
    """

    means: dict[str, Mean]
    rows: dict[str, Any]
    stats: Total | None = None


def evaluate(
    workload: Workload,
    metrics: Sequence[Metric],
    variables: Any,
    batch: Any,
) -> EvalBatch:
    """Evaluates the model on a batch, a pure function of arrays.

    Args:
      workload: workload of the run.
      metrics: entries of `METRICS`, beside the workload's own.
      variables: variables of the model.
      batch: a batch of `Workload.eval_batches`.

    Raises:
      ConfigError: for a metric whose name the workload has for another.
    """
    out = workload.forward(variables, batch)
    means = dict(out.means)
    for name, mean in _registered(metrics, out):
        if name in means:
            allowed = "absent: the workload's own metric has this name"
            raise ConfigError('config.metrics', name, allowed)
        means[name] = mean
    stats = None if out.aux is None else totals_of(out.aux).stats
    return EvalBatch(means, workload.eval_rows(out, batch), stats)


def _registered(
    metrics: Sequence[Metric], out: Outputs
) -> Iterator[tuple[str, Mean]]:
    for metric in metrics:
        for task, predictions in out.predictions.items():
            mean = metric(predictions)
            if mean is not None:
                name = METRICS.name_of(metric)
                yield (f'{task}/{name}' if task else name), mean


def metrics_of(
    workload: Workload, batches: Sequence[EvalBatch]
) -> dict[str, float]:
    """Returns the metrics of an evaluation, by name.

    Args:
      workload: workload of the run.
      batches: results of one batch or more, on the host.
    """
    means = {}
    for name in batches[0].means:
        each = [batch.means[name] for batch in batches]
        count = sum(float(mean.count) for mean in each)
        if count:  # a mean over nothing is absent
            means[name] = sum(float(mean.sum) for mean in each) / count
    return workload.eval_metrics(means, rows_of(batches))


def rows_of(batches: Sequence[EvalBatch]) -> dict[str, Any]:
    """Returns the arrays of the examples of all batches, joined.

    Args:
      batches: results of one batch or more, on the host.
    """
    joined = lambda *arrays: np.concatenate(arrays)
    return jax.tree.map(joined, *(batch.rows for batch in batches))


def routing_of(
    workload: Workload, batches: Sequence[EvalBatch]
) -> dict[str, Any]:
    """Returns the statistics of the mixtures over an evaluation, by name.

    Sums over all valid tokens of the batches are added up, and the statistics
    are functions of these.

    Args:
      workload: workload of the run.
      batches: results of one batch or more, on the host.

    Returns:
      `moe/LAYER/STATISTIC`, as in training, without the states of routers; {}
      without mixtures, or without a valid token.
    """
    stats = [batch.stats for batch in batches if batch.stats is not None]
    if not stats:
        return {}
    double = jax.tree.map(lambda x: np.asarray(x, np.float64), stats)
    total = jax.tree.map(lambda *parts: sum(parts), *double)
    if not np.sum(total.count):
        return {}
    found = {
        name: np.asarray(value)
        for name, value in total.term.items()
        if not name.startswith('state/')
    }
    return workload.layer_metrics(found)
