"""Optimizers and learning-rate schedules, from optax by name."""

from typing import Any

import jax
import optax

from moe.training.config import OptimizerConfig

# Not decayed: what scales or shifts, and routers, whose decay would flatten
# the gates.
_UNDECAYED = [
    'scale',
    'bias',
    'router',
    'norm',
    'gamma',
    'beta',
    'log_',
    'stitch',
]


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Linear warm-up to the peak, then the named decay over what is left.

    Args:
      config: of the optimizer.
      steps: of the whole run.

    Returns:
      The learning rate as a function of the step.
    """
    peak = config.learning_rate
    last = peak * config.final_fraction
    left = steps - config.warmup_steps
    decay = {
        'constant': lambda: optax.constant_schedule(peak),
        'linear': lambda: optax.linear_schedule(peak, last, left),
        'cosine': lambda: optax.cosine_decay_schedule(
            peak, left, config.final_fraction
        ),
    }[config.schedule]()
    if not config.warmup_steps:
        return decay
    # The first step already moves: from peak / warmup, not from 0.
    first = peak / config.warmup_steps
    warmup = optax.linear_schedule(first, peak, config.warmup_steps)
    return optax.join_schedules([warmup, decay], [config.warmup_steps])


def decayed(params: Any) -> Any:
    """Which parameters weight decay acts on: no norms, biases or routers.

    Args:
      params: the parameters; a leaf's last key names it.

    Returns:
      The same tree of bools.
    """

    def decay(path, _):
        name = path[-1].key
        return not any(part in name for part in _UNDECAYED)

    return jax.tree_util.tree_map_with_path(decay, params)


def make_optimizer(
    config: OptimizerConfig, steps: int
) -> optax.GradientTransformation:
    """Clipping, then the named optimizer with masked weight decay.

    Args:
      config: of the optimizer. `b1` and `b2` are of adamw and lion; adafactor
        and muon keep their own defaults.
      steps: of the whole run.

    Returns:
      The transformation, learning rate included.
    """
    schedule = make_schedule(config, steps)
    decay = config.weight_decay
    optimizer = {
        'adamw': lambda: optax.adamw(
            schedule, config.b1, config.b2, weight_decay=decay, mask=decayed
        ),
        'lion': lambda: optax.lion(
            schedule, config.b1, config.b2, weight_decay=decay, mask=decayed
        ),
        'adafactor': lambda: optax.chain(
            optax.scale_by_factored_rms(),
            optax.clip_by_block_rms(1.0),
            optax.add_decayed_weights(decay, decayed),
            optax.scale_by_learning_rate(schedule),
        ),
        # Its own decay knows no mask for what Adam has: decayed out here.
        'muon': lambda: optax.chain(
            optax.contrib.muon(1.0, muon_weight_dimension_numbers=_matrices),
            optax.scale(-1.0),
            optax.add_decayed_weights(decay, decayed),
            optax.scale_by_learning_rate(schedule),
        ),
    }[config.name]()
    if config.clip_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)


def _matrices(params: Any) -> Any:
    """Muon orthogonalises the matrices inside the stack; Adam has the rest."""
    inputs_outputs = {
        'up': (-2, -1),
        'gate': (-2, -1),
        'down': (-2, -1),
        'query': (-3, (-2, -1)),
        'key': (-3, (-2, -1)),
        'value': (-3, (-2, -1)),
        'out': ((-3, -2), -1),
    }

    def numbers(path, leaf):
        axes = inputs_outputs.get(path[-1].key)
        if axes is None:
            return None
        absolute = lambda a: (
            tuple(leaf.ndim + i for i in a)
            if isinstance(a, tuple)
            else leaf.ndim + a
        )
        return optax.contrib.MuonDimensionNumbers(
            absolute(axes[0]), absolute(axes[1])
        )

    return jax.tree_util.tree_map_with_path(numbers, params)
