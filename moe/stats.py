"""Statistics of routing.

G groups, S tokens a group, E experts, K choices a token.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from moe.losses import AxisName, masked_mean, sum_over


def routing_stats(
    probs: Float[Array, 'G S E'],
    counts: Float[Array, 'G E'],
    within_capacity: Bool[Array, '...'] | Float[Array, ''],
    mask: Bool[Array, 'G S'],
    *,
    axis_name: AxisName = None,
) -> dict[str, Array]:
    """Statistics of one layer's routing, global over the mesh.

    Args:
      probs: router probabilities, float32.
      counts: valid assignments of each expert, before capacity.
      within_capacity: whether each assignment was within capacity, or how
        many were.
      mask: True for valid tokens.
      axis_name: mesh axes the tokens are split over.

    Returns:
      `load` [E], the share of the assignments by expert times E (1 when
      balanced); `load_max`, `load_min` and `load_cv` (standard deviation over
      mean) of it; `max_violation`, its maximum minus 1 (arXiv 2408.15664);
      `entropy` of the router's distribution in nats and `confidence`, its
      largest probability, both means over valid tokens; `dropped`, the share of
      the assignments beyond capacity; `dead_experts`, the number of experts
      with no assignment; `experts_per_token`, assignments of a valid token.
    """
    num_executed = jnp.sum(within_capacity.astype(jnp.float32))
    num_tokens = jnp.sum(mask.astype(jnp.float32))
    counts, num_executed, num_tokens = sum_over(
        (jnp.sum(counts, axis=0), num_executed, num_tokens), axis_name
    )
    assigned = jnp.sum(counts)
    log_probs = jnp.log(jnp.maximum(probs, jnp.finfo(jnp.float32).tiny))
    entropy = -jnp.sum(probs * log_probs, axis=-1)
    confidence = jnp.max(probs, axis=-1)
    return load_stats(counts) | {
        'entropy': masked_mean(entropy, mask, axis_name=axis_name),
        'confidence': masked_mean(confidence, mask, axis_name=axis_name),
        'dropped': (assigned - num_executed) / jnp.maximum(assigned, 1.0),
        'experts_per_token': assigned / jnp.maximum(num_tokens, 1.0),
    }


def load_stats(counts: Float[Array, 'E']) -> dict[str, Array]:
    """Returns those statistics of `routing_stats` that need the load alone.

    Args:
      counts: assignments of each expert, in any unit.

    Returns:
      `load`, `load_max`, `load_min`, `load_cv`, `max_violation` and
      `dead_experts`.
    """
    assigned = jnp.sum(counts)
    load = counts * counts.shape[0] / jnp.maximum(assigned, 1e-9)
    return {
        'load': load,
        'load_max': jnp.max(load),
        'load_min': jnp.min(load),
        'load_cv': jnp.std(load) / jnp.maximum(jnp.mean(load), 1e-9),
        'max_violation': jnp.max(load) - 1.0,
        'dead_experts': jnp.sum((counts == 0).astype(jnp.float32)),
    }
