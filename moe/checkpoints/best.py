"""`moe.checkpoints best DIR`: the checkpoint with the best metric."""

import math
import pathlib

from absl import flags

from moe.checkpoints.verify import find_damage
from moe.command_line import define_plugins
from moe.config import ConfigError
from moe.metrics import columns, read_metrics
from moe.training.eval_metrics import is_higher_better
from moe.training.restore import list_checkpoints
from moe.workloads import registry

FLAGS = flags.FlagValues()
flags.DEFINE_string(
    'metric',
    None,
    "Name in metrics.jsonl, such as eval/loss; None is the workload's first.",
    flag_values=FLAGS,
)
define_plugins(FLAGS)


def run(workdir: pathlib.Path) -> int:
    """Prints step, value and folder of the best checkpoint that is whole.

    Raises:
      ConfigError: for a metric that was not logged at any step with a
        checkpoint that is whole.
    """
    workload = registry.read_run(workdir, FLAGS.plugins).make_workload()
    metric = FLAGS.metric or f'eval/{workload.primary_metrics[0]}'
    path = workdir / 'metrics.jsonl'
    found = columns(read_metrics(path) if path.exists() else ())
    logged = found.get(metric)
    values = {} if logged is None else dict(zip(*logged, strict=True))
    sign = -1 if is_higher_better(workload, metric) else 1
    entries = [
        (sign * float(values[entry.step]), entry)
        for entry in list_checkpoints(workdir)
        if math.isfinite(float(values.get(entry.step, math.nan)))
    ]
    for value, entry in sorted(entries, key=lambda pair: pair[0]):
        if not find_damage(entry):
            print(
                f'step {entry.step}  {metric} {sign * value:.6g}  {entry.path}'
            )
            return 0
    names = ', '.join(name for name in found if name.startswith('eval/'))
    allowed = (
        f'logged at the step of a checkpoint that is whole (there: {names})'
    )
    raise ConfigError('--metric', metric, allowed)
