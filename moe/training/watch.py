"""What is done by a metric: checkpoints that are kept, and an early end."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from orbax.checkpoint.checkpoint_managers import preservation_policy

from moe.config import NaturalInt
from moe.metrics import read_metrics
from moe.training.eval_metrics import is_higher_better
from moe.training.workload import Workload


@dataclasses.dataclass(frozen=True)
class BestConfig:
    """What is done by the values of an evaluation metric.

    Attributes:
      metric: its name, such as loss; None for the workload's first.
      keep: how many checkpoints with the best values are kept beside the
        newest; an evaluation that is the best so far is then saved.
      patience: number of evaluations in a row without a better value after
        which the run ends; 0 for never.
    """

    metric: str | None = None
    keep: NaturalInt = 0
    patience: NaturalInt = 0


class Watch:
    """The values of a metric over the evaluations of a run.

    Args:
      config: the section of the config.
      workload: workload of the run.
      workdir: the run's folder, with the evaluations of before.
      start: step that the run goes on from; later lines do not count.
    """

    def __init__(
        self,
        config: BestConfig,
        workload: Workload,
        workdir: pathlib.Path,
        start: int,
    ):
        self._config = config
        self._metric = f'eval/{config.metric or workload.primary_metrics[0]}'
        higher = is_higher_better(workload, self._metric)
        self._sign = -1.0 if higher else 1.0
        # Lower is better, in the order of the steps.
        self._values: dict[int, float] = {}
        if config.keep or config.patience:
            path = workdir / 'metrics.jsonl'
            for line in read_metrics(path) if path.exists() else ():
                if line['step'] <= start:
                    self.note(line['step'], line)

    def note(self, step: int, metrics: Mapping[str, Any]) -> str | None:
        """Notes the metrics of a step, if it has an evaluation.

        Args:
          step: number of steps taken.
          metrics: metrics by name, as they are logged.

        Returns:
          What is wrong, if the evaluation does not have the metric.
        """
        if self._metric in metrics:
            value = float(metrics[self._metric])
            self._values[step] = (
                self._sign * value if math.isfinite(value) else math.inf
            )
            return None
        names = [
            name.removeprefix('eval/')
            for name in metrics
            if name.startswith('eval/') and not name.startswith('eval/moe/')
        ]
        if not names or not (self._config.keep or self._config.patience):
            return None
        return (
            f'config.best.metric: no evaluation has '
            f'{self._metric.removeprefix("eval/")} (there: {", ".join(names)})'
        )

    def best(self) -> list[int]:
        """Returns the steps whose checkpoints are kept, the best first."""
        finite = [s for s, v in self._values.items() if v < math.inf]
        order = sorted(finite, key=lambda step: (self._values[step], step))
        return order[: self._config.keep]

    def improved(self, step: int) -> bool:
        """Whether a step is to be saved for its value, the best so far.

        Args:
          step: number of steps taken.
        """
        return self.best()[:1] == [step]

    def ended(self) -> str | None:
        """Returns why the run ends early; None if it does not."""
        patience, values = self._config.patience, list(self._values.values())
        if not patience or len(values) <= patience:
            return None
        if min(values[-patience:]) < min(values[:-patience]):
            return None
        step = list(self._values)[int(np.argmin(values))]
        return (
            f'{self._metric} of step {step} has not become better in the last '
            f'{patience} evaluations'
        )


@dataclasses.dataclass
class Kept(preservation_policy.PreservationPolicy):
    """Keeps the newest checkpoints, and the best of a run.

    Attributes:
      newest: how many of the newest.
      watch: knows the best.
    """

    newest: int
    watch: Watch

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> list[bool]:
        """Returns which of the checkpoints, oldest first, are kept."""
        best, count = self.watch.best(), len(checkpoints)
        return [
            i >= count - self.newest or info.step in best
            for i, info in enumerate(checkpoints)
        ]
