"""`moe.checkpoints prune_experts DIR --workdir=NEW --keep=N`: fewer experts.

Of each mixture layer the N experts stay that matter most on a validation set.
"""

import pathlib

import numpy as np
from absl import flags

from moe.checkpoints import surgery, transform
from moe.checkpoints.measured import SCORES, Measured, measure
from moe.config import ConfigError

OVERRIDES = True
FLAGS = flags.FlagValues()
transform.define(FLAGS)
flags.DEFINE_integer(
    'keep', None, 'How many experts a layer keeps.', 1, flag_values=FLAGS
)
flags.DEFINE_enum(
    'by',
    'reap',
    SCORES,
    'What decides: the number of tokens sent to an expert, the sum of their '
    'gates, or the mean of gate times norm of output (REAP).',
    flag_values=FLAGS,
)


def run(workdir: pathlib.Path, overrides: transform.Overrides) -> int:
    """Writes a run with fewer experts; returns 0.

    Args:
      workdir: folder of the run.
      overrides: fields of its config that the new run has otherwise; those of
        `data` also choose what is measured and evaluated.

    Raises:
      ConfigError: for a number of experts that the config cannot have.
      Damaged: if the checkpoint is damaged.
    """
    transform.new_folder(FLAGS.workdir)
    source = surgery.opened(workdir, FLAGS)
    count, keep = source.config.model.moe.num_experts, FLAGS.keep
    if keep is None or keep > count:
        raise ConfigError('--keep', keep, f'at most num_experts ({count})')
    changes = {'model.moe.num_experts': keep}
    surgery.changed(source, changes, overrides)
    found = measure(source, transform.data_of(overrides))
    kept = kept_experts(found, FLAGS.by, keep)
    layers = source.config.model.moe_layers
    share = [
        load[best].sum() / max(load.sum(), 1)
        for load, best in zip(found.load, kept, strict=True)
    ]
    lines = [
        f'layer {layer}: {keep} of {count} experts stay, to which {part:.1%} '
        'of the assignments were'
        for layer, part in zip(layers, share, strict=True)
    ]
    told = transform.Told(
        'prune_experts',
        {'keep': keep, 'by': FLAGS.by},
        lines,
        {'kept': kept.tolist(), 'score': found.score(FLAGS.by).tolist()},
    )
    operation = surgery.Selection(dict(zip(layers, kept, strict=True)))
    surgery.write(source, operation, changes, overrides, FLAGS, told)
    return 0


def kept_experts(found: Measured, by: str, keep: int) -> np.ndarray:
    """Returns the experts of greatest score of each layer, in their order.

    Args:
      found: what was measured.
      by: name of the score.
      keep: how many; of equal scores the lower index stays.

    Returns:
      Their numbers, int [L, keep].
    """
    best = np.argsort(-found.score(by), axis=-1, kind='stable')[:, :keep]
    return np.sort(best, axis=-1)
