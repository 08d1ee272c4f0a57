"""`moe.checkpoints best DIR`: the checkpoint with the best metric."""

import pathlib

from absl import flags

from moe.checkpoints.verify import find_damage
from moe.command_line import define_plugins
from moe.config import ConfigError
from moe.training.best import by_metric
from moe.training.eval_metrics import is_higher_better
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
    entries = by_metric(workdir, metric, is_higher_better(workload, metric))
    for value, entry in entries:
        if not find_damage(entry):
            print(f'step {entry.step}  {metric} {value:.6g}  {entry.path}')
            return 0
    allowed = 'logged at the step of a checkpoint that is whole'
    raise ConfigError('--metric', metric, allowed)
