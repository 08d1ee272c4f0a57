"""The checkpoints of a run in the order of a metric."""

import math
import pathlib

from moe.config import ConfigError
from moe.metrics import columns, read_metrics
from moe.training.restore import Entry, list_checkpoints


def by_metric(
    workdir: pathlib.Path, metric: str, higher_is_better: bool
) -> list[tuple[float, Entry]]:
    """Returns the checkpoints at whose steps a metric was logged, best first.

    Args:
      workdir: the run's folder.
      metric: name in `metrics.jsonl`, such as eval/loss.
      higher_is_better: whether higher values are better.

    Returns:
      Value and checkpoint, of equal values the newer one first; without values
      that are not finite.

    Raises:
      ConfigError: if there are none.
    """
    path = workdir / 'metrics.jsonl'
    found = columns(read_metrics(path) if path.exists() else ())
    logged = found.get(metric)
    values = {} if logged is None else dict(zip(*logged, strict=True))
    entries = [
        (float(values[entry.step]), entry)
        for entry in list_checkpoints(workdir)
        if not entry.damage
        and math.isfinite(float(values.get(entry.step, math.nan)))
    ]
    if not entries:
        names = ', '.join(
            name
            for name in found
            if name.startswith('eval/') and not name.startswith('eval/moe/')
        )
        allowed = (
            f'logged at the step of a checkpoint that is whole (there: {names})'
        )
        raise ConfigError('--metric', metric, allowed)
    sign = -1 if higher_is_better else 1
    return sorted(entries, key=lambda pair: sign * pair[0])
