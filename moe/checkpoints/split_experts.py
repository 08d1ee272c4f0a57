"""`moe.checkpoints split_experts DIR --workdir=NEW --parts=P`: more experts.

Each expert becomes P of 1/P of its hidden width, or P copies; a token takes P
times as many. The logits stay.
"""

import pathlib

import numpy as np
from absl import flags

from moe.checkpoints import hidden, surgery, transform
from moe.checkpoints.routers import drawn_logits, gates_of
from moe.config import ConfigError, options
from moe.types import Router

OVERRIDES = True
FLAGS = flags.FlagValues()
transform.define(FLAGS)
flags.DEFINE_integer(
    'parts', 2, 'How many experts one becomes.', 2, flag_values=FLAGS
)
flags.DEFINE_bool(
    'duplicate',
    False,
    'Make copies of whole experts, and not parts of them.',
    flag_values=FLAGS,
)


class Split:
    """Parts or copies of each expert, next to each other: an `Operation`.

    They have one column of the router, so that a token takes all or none.

    Args:
      parts: P.
      duplicate: whether they are copies.
      ratio: gate of one of them over that of the expert.
    """

    def __init__(self, parts: int, duplicate: bool, ratio: float):
        self._parts, self._duplicate, self._ratio = parts, duplicate, ratio

    def experts(self, layer: int, name: str, array: np.ndarray) -> np.ndarray:
        """Returns a parameter of the new experts."""
        parts = self._parts
        whole = 1 / (parts * self._ratio)  # of what all of them add
        if self._duplicate:
            found = np.repeat(array, parts, axis=0)
            if name.startswith('down'):
                found = found * np.asarray(whole, array.dtype)
            return found
        if name not in hidden.AXES:
            return np.repeat(array, parts, 0) * np.asarray(whole, array.dtype)
        width = array.shape[hidden.AXES[name]] // parts
        cut = [
            hidden.take(name, array, slice(i * width, (i + 1) * width))
            for i in range(parts)
        ]
        found = np.stack(cut, axis=1).reshape(-1, *cut[0].shape[1:])
        if name == 'down':
            found = found * np.asarray(1 / self._ratio, array.dtype)
        return found

    def gate(self, layer: int, array: np.ndarray) -> np.ndarray:
        """Returns one column for each part."""
        return np.repeat(array, self._parts, axis=-1)


def run(workdir: pathlib.Path, overrides: transform.Overrides) -> int:
    """Writes a run with more experts; returns 0.

    Args:
      workdir: folder of the run.
      overrides: fields of its config that the new run has otherwise; those of
        `data` also choose what is evaluated.

    Raises:
      ConfigError: for experts that cannot be split, or a router by which a
        token would not take all parts of an expert.
      Damaged: if the checkpoint is damaged.
    """
    transform.new_folder(FLAGS.workdir)
    source = surgery.opened(workdir, FLAGS)
    moe, parts = source.config.model.moe, FLAGS.parts
    hidden.check_known(moe.experts, 'config.model.moe.experts')
    if any(vars(moe.zero_computation).values()):
        allowed = 'none, for experts that are split'
        raise ConfigError('config.model.moe.zero_computation', 'given', allowed)
    changes = {'model.moe.num_experts': moe.num_experts * parts}
    given = options(moe.router)
    if 'k' in given:
        changes['model.moe.router.k'] = given['k'] * parts
    if not FLAGS.duplicate:
        width = options(moe.experts)['hidden']
        if width % parts:
            allowed = f'a divisor of the {width} hidden units of an expert'
            raise ConfigError('--parts', parts, allowed)
        changes['model.moe.experts.hidden'] = width // parts
    config = surgery.changed(source, changes, overrides)
    ratio = gate_ratio(
        moe.router, config.model.moe.router, moe.num_experts, parts
    )
    if ratio is None:
        allowed = 'a router by which a token takes all parts of an expert'
        name = 'config.model.moe.router'
        raise ConfigError(name, source.plain['model']['moe']['router'], allowed)
    told = transform.Told(
        'split_experts',
        {'parts': parts, 'duplicate': FLAGS.duplicate},
        [
            f'{moe.num_experts} experts become {moe.num_experts * parts}, '
            f'{parts} times as many a token; the logits stay as they are'
        ],
        {'ratio': ratio},
    )
    operation = Split(parts, FLAGS.duplicate, ratio)
    surgery.write(source, operation, changes, overrides, FLAGS, told)
    return 0


def gate_ratio(
    before: Router, after: Router, count: int, parts: int
) -> float | None:
    """Returns the gate of each part of an expert over that of the expert.

    Args:
      before: the router of the experts.
      after: the router of the parts.
      count: E.
      parts: P.

    Returns:
      The ratio; None if it is not one and the same, as routed draws show.
    """
    logits = drawn_logits(np.eye(count))
    old = gates_of(before, logits)
    new = gates_of(after, np.repeat(logits, parts, axis=1))
    chosen = old > 0
    if not chosen.any():
        return None
    split = new.reshape(*old.shape, parts)[chosen]
    ratio = float(np.mean(split / old[chosen][:, None]))
    want = np.repeat(old * ratio, parts, axis=1)
    same = np.allclose(new, want, rtol=1e-5, atol=1e-6) and ratio > 0
    return ratio if same else None
