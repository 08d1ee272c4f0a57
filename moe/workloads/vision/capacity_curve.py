"""Accuracy of a trained model against its capacity in evaluation.

With the same parameters every expert takes more or fewer tokens, in the order
of the tokens or by the router's confidence (batch priority), which leaves out
the least important ones. Source: V-MoE, arXiv 2106.05974, section 4.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from moe.capacity import CapacityFactor, Dropless
from moe.config import ConfigError, PositiveFloat, PositiveInt
from moe.training.evaluation import EvalBatch, metrics_of, routing_of

FILE = 'capacity.json'
DROPLESS = 'nothing dropped'
IN_ORDER = 'tokens in order'
PRIORITIZED = 'batch priority'
FACTORS = (0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


@dataclasses.dataclass(frozen=True)
class CapacityCurve:
    """Evaluations of a finished run at several capacities.

    Attributes:
      factors: capacity factors, each with and without batch priority.
      max_batches: the most validation batches of each evaluation.
    """

    factors: tuple[PositiveFloat, ...] = FACTORS
    max_batches: PositiveInt = 50


class Point(NamedTuple):
    """One evaluation.

    Attributes:
      factor: capacity factor; None drops nothing.
      prioritized: whether tokens are taken by the router's confidence.
      config: config of the run, with this capacity.
    """

    factor: float | None
    prioritized: bool
    config: Any


def points(config: Any, factors: Sequence[float]) -> Iterator[Point]:
    """Yields the evaluations of a curve: that without drops comes first.

    Args:
      config: `VisionConfig` of the run, whatever its capacity in training.
      factors: capacity factors.

    Raises:
      ConfigError: for a model without mixtures, or whose router has no
        capacity that could vary, such as that of soft mixtures and of expert
        choice; its field is relative to the config.
    """
    if not config.model.moe_layers:
        allowed = 'at least 1: a dense model has no capacity'
        raise ConfigError('model.moe_every', config.model.moe_every, allowed)
    moe = config.model.moe
    given = moe.capacity
    base = given if isinstance(given, CapacityFactor) else CapacityFactor()

    def changed(capacity):
        try:
            mixtures = dataclasses.replace(moe, capacity=capacity)
        except ConfigError as error:
            raise error.inside('model.moe') from None
        model = dataclasses.replace(config.model, moe=mixtures)
        return dataclasses.replace(config, model=model, capacity_curve=None)

    yield Point(None, False, changed(Dropless()))
    for factor in factors:
        for prioritized in (False, True):
            capacity = dataclasses.replace(
                base, eval=factor, minimum=1, prioritized=prioritized
            )
            yield Point(factor, prioritized, changed(capacity))


def measure(
    config: Any,
    factors: Sequence[float],
    evaluate: Callable[[Any], Sequence[EvalBatch]],
) -> dict[str, Any]:
    """Evaluates a model at several capacities.

    Capacity is at least one token an expert and a group, whatever `minimum` is
    in training. A last batch that is padded has more capacity for each image.

    Args:
      config: config of the run.
      factors: capacity factors.
      evaluate: a function from a workload to its results on validation batches.

    Returns:
      The name of the `metric`, and as `rows` for each evaluation `factor` (None
      drops nothing), `prioritized`, `value` of the metric, and `dropped`, the
      share of the assignments beyond capacity, a mean over the layers; JSON.

    Raises:
      ConfigError: see `points`.
    """
    rows, metric = [], ''
    for point in points(config, factors):
        workload = point.config.make_workload()
        metric = workload.primary_metrics[0]
        results = evaluate(workload)
        dropped = [
            value
            for name, value in routing_of(workload, results).items()
            if name.endswith('/dropped')
        ]
        rows.append(
            {
                'factor': point.factor,
                'prioritized': point.prioritized,
                'value': metrics_of(workload, results)[metric],
                'dropped': float(np.mean(dropped)),
            }
        )
    return {'metric': metric, 'rows': rows}


def lines(found: Mapping[str, Any]) -> list[str]:
    """Returns what is printed of a curve: a line for each capacity.

    Args:
      found: results of `measure`, and the `step`.
    """
    told = [f'step {found["step"]}: {found["metric"]} by capacity factor']
    for factor, values in by_factor(found).items():
        each = (
            f'{name} {row["value"]:.4f} ({row["dropped"]:.1%} dropped)'
            for name, row in values.items()
        )
        name = 'no limit' if factor is None else f'{factor:g}'
        told.append(f'  {name}: {", ".join(each)}')
    return told


def by_factor(
    found: Mapping[str, Any],
) -> dict[float | None, dict[str, Mapping[str, Any]]]:
    """Returns the rows of a curve by capacity factor and order of the tokens.

    Args:
      found: results of `measure`.
    """
    table: dict[float | None, dict[str, Mapping[str, Any]]] = {}
    for row in found['rows']:
        name = PRIORITIZED if row['prioritized'] else IN_ORDER
        if row['factor'] is None:
            name = DROPLESS
        table.setdefault(row['factor'], {})[name] = row
    return table
