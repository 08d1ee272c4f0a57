"""A router of your own, with a state and an auxiliary loss, in one file.

    python train.py --config=configs/lm.py --workdir=runs/own \
        --config.plugins=examples/own_router.py \
        --config.model.moe.router.name=smooth \
        --config.losses.uncertainty=0.01

Nothing of the library changes: importing this file registers both. The router
gets every dispatcher, mesh, statistic and report that others have; its state
is saved with the checkpoints, logged and plotted.
"""

import dataclasses

import jax
import jax.numpy as jnp

from moe.config import Fraction, PositiveFloat, PositiveInt
from moe.losses import AUXILIARY_LOSSES, masked_mean
from moe.routing import ROUTERS
from moe.routing.choice import normalized, select, token_choice
from moe.types import traits


@dataclasses.dataclass(frozen=True)
class SmoothBias:
    """Moves selection biases by a bounded function of the load, with momentum.

    `speed <- momentum * speed - rate * tanh(load / mean(load) - 1)`, and
    `bias <- bias + speed`, centred. Source: SMEBU, arXiv 2602.17004.
    """

    rate: float
    momentum: float

    def init(self, num_experts):
        """Returns the value before the first step, here two arrays [E]."""
        zeros = jnp.zeros(num_experts)
        return {'bias': zeros, 'speed': zeros}

    def statistic(self, routing, value):
        """Returns what is summed over the whole batch: each expert's load."""
        return jnp.sum(routing.assignments(), axis=(0, 1))

    def update(self, value, statistic):
        """Returns the value after a step."""
        excess = statistic / jnp.maximum(jnp.mean(statistic), 1) - 1
        speed = self.momentum * value['speed'] - self.rate * jnp.tanh(excess)
        bias = value['bias'] + speed
        return {'bias': bias - jnp.mean(bias), 'speed': speed}


def _states(options):
    rule = SmoothBias(options['rate'], options['momentum'])
    return {'balance': rule}


@ROUTERS.register('smooth')
@traits(state=_states)
def smooth(
    logits,
    context,
    *,
    k: PositiveInt = 2,
    rate: PositiveFloat = 1e-3,
    momentum: Fraction = 0.9,
):
    """Selects K experts by sigmoid score plus bias, weights them by score.

    Args:
      logits: router logits, [G, S, E] float32.
      context: mask and state are read.
      k: K, experts a token.
      rate: of the biases, see `SmoothBias`.
      momentum: of the biases.
    """
    scores = jax.nn.sigmoid(logits)
    bias = context.state['balance']['bias']
    _, expert = select(scores + bias, k)
    weight = normalized(jnp.take_along_axis(scores, expert, axis=-1))
    probs = scores / jnp.sum(scores, axis=-1, keepdims=True)
    return token_choice(expert, weight, probs, logits, context)


@AUXILIARY_LOSSES.register('uncertainty')
def uncertainty(summary):
    """Mean entropy of the valid tokens' router probabilities, in nats."""
    entropy = -jnp.sum(summary.probs * jnp.log(summary.probs + 1e-9), axis=-1)
    return masked_mean(entropy, summary.mask)
