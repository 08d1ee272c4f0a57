"""Losses of the logits of a language model.

B batch, S positions, V vocabulary.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from moe.models.mtp import Ahead
from moe.totals import Mean, Total, mean_over


def token_losses(
    logits: Float[Array, 'B S V'], targets: Int[Array, 'B S']
) -> Float[Array, 'B S']:
    """Returns the cross-entropy of each target in nats, float32.

    Args:
      logits: logits of each position, float32.
      targets: the tokens that follow, int32.
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def output_z(
    logits: Float[Array, 'B S V'], mask: Bool[Array, 'B S'] | None
) -> Mean:
    """Returns the z-loss of the logits: the mean of `logsumexp(logits)^2`.

    Source: PaLM, arXiv 2204.02311, section 5.

    Args:
      logits: logits of each position, float32.
      mask: True for positions that have a target; None if all have.
    """
    return mean_over(mask, jnp.square(jax.nn.logsumexp(logits, axis=-1)))


def further_losses(
    ahead: Sequence[Ahead], logits: Sequence[Float[Array, 'B S V']]
) -> dict[str, Total]:
    """Returns the loss of each depth of multi-token prediction, by name.

    Each is a mean in nats over the positions that have a target, where
    arXiv 2412.19437 divides by the length of the sequence.

    Args:
      ahead: the targets of each depth.
      logits: the logits of each depth, float32.
    """
    return {
        f'mtp_{k}': mean_over(one.mask, token_losses(own, one.target))
        for k, (one, own) in enumerate(zip(ahead, logits, strict=True), 1)
    }
