"""Statistics of routing.

G groups, S tokens a group, E experts, K choices a token.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from moe.losses import AxisName, sum_over
from moe.totals import Derived, mean_over


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
    total = routing_total(probs, counts, within_capacity, mask)
    return sum_over(total, axis_name).term


def routing_total(
    probs: Float[Array, 'G S E'],
    counts: Float[Array, 'G E'],
    within_capacity: Bool[Array, '...'] | Float[Array, ''],
    mask: Bool[Array, 'G S'],
) -> Derived:
    """Returns what `routing_stats` computes as a function of sums over tokens.

    Args:
      probs: see `routing_stats`.
      counts: see `routing_stats`.
      within_capacity: see `routing_stats`.
      mask: see `routing_stats`.
    """
    log_probs = jnp.log(jnp.maximum(probs, jnp.finfo(jnp.float32).tiny))
    entropy = mean_over(mask, -jnp.sum(probs * log_probs, axis=-1))
    sums = {
        'counts': jnp.sum(counts, axis=0),
        'executed': jnp.sum(within_capacity.astype(jnp.float32)),
        'entropy': entropy,
        'confidence': mean_over(mask, jnp.max(probs, axis=-1)),
    }
    return Derived(sums, entropy.count, _routing_stats)


def _routing_stats(sums) -> dict[str, Array]:
    counts, entropy = sums['counts'], sums['entropy']
    assigned = jnp.sum(counts, axis=-1)
    lost = assigned - sums['executed']
    return load_stats(counts) | {
        'entropy': entropy.term,
        'confidence': sums['confidence'].term,
        'dropped': lost / jnp.maximum(assigned, 1.0),
        'experts_per_token': assigned / jnp.maximum(entropy.count, 1.0),
    }


def load_stats(counts: Float[Array, '*L E']) -> dict[str, Array]:
    """Returns those statistics of `routing_stats` that need the load alone.

    Args:
      counts: assignments of each expert, in any unit; layers in front.

    Returns:
      `load`, `load_max`, `load_min`, `load_cv`, `max_violation` and
      `dead_experts`.
    """
    assigned = jnp.sum(counts, axis=-1, keepdims=True)
    load = counts * counts.shape[-1] / jnp.maximum(assigned, 1e-9)
    mean = jnp.mean(load, axis=-1)
    return {
        'load': load,
        'load_max': jnp.max(load, axis=-1),
        'load_min': jnp.min(load, axis=-1),
        'load_cv': jnp.std(load, axis=-1) / jnp.maximum(mean, 1e-9),
        'max_violation': jnp.max(load, axis=-1) - 1.0,
        'dead_experts': jnp.sum(counts == 0, axis=-1, dtype=jnp.float32),
    }
