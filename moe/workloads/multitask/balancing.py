"""How the losses of several tasks become one gradient.

N tasks, P shared parameters.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key


def uncertainty(
    losses: Float[Array, 'N'],
    log_variance: Float[Array, 'N'],
    regression: Bool[Array, 'N'],
) -> Float[Array, 'N']:
    """Weighs losses by learned variances.

    `exp(-s) * L + s / 2` with `s = log(variance)`, and half of L for a squared
    error: the negative log likelihood of a Gaussian, or of a softmax with a
    temperature. Source: Kendall et al., arXiv 1705.07115, eq. 7 and 10.

    Args:
      losses: mean loss of each task, float32.
      log_variance: s, learned; 0 at first.
      regression: whether the loss is a squared error.

    Returns:
      The terms of the objective.
    """
    scale = jnp.where(regression, 0.5, 1.0)
    return scale * jnp.exp(-log_variance) * losses + log_variance / 2


class GradNorm(NamedTuple):
    """What GradNorm remembers.

    Attributes:
      weights: of the tasks, float32 [N], N in sum.
      initial: the first step's losses, float32 [N]; 0 before it.
    """

    weights: Any
    initial: Any


def gradnorm(
    state: GradNorm,
    losses: Float[Array, 'N'],
    norms: Float[Array, 'N'],
    *,
    alpha: float,
    rate: float,
) -> GradNorm:
    """Moves the tasks' weights so that all tasks train at one pace.

    With `G_i = w_i * norm_i` and the pace `r_i = (L_i / L_i(0)) / mean`, one
    step of gradient descent on `sum_i |G_i - mean(G) * r_i^alpha|`, the target
    held constant; then the weights are scaled to sum to N. Source: Chen et al.,
    arXiv 1711.02257, eq. 1-2 and algorithm 1.

    Args:
      state: before the step.
      losses: mean loss of each task, unweighted, float32, positive.
      norms: of the gradients of these losses in the shared parameters.
      alpha: how strongly slow tasks are favoured.
      rate: learning rate of the weights.

    Returns:
      The next state.
    """
    initial = jnp.where(state.initial > 0, state.initial, losses)
    ratio = losses / jnp.maximum(initial, 1e-9)
    pace = ratio / jnp.maximum(jnp.mean(ratio), 1e-9)
    size = state.weights * norms
    target = jnp.mean(size) * pace**alpha
    weights = state.weights - rate * jnp.sign(size - target) * norms
    weights = jnp.maximum(weights, 1e-3)
    return GradNorm(weights * (len(losses) / jnp.sum(weights)), initial)


def pcgrad(gram: Float[Array, 'N N'], key: Key[Array, '']) -> Float[Array, 'N']:
    """Weights under which no task's gradient works against another's.

    Each g_i is projected, for the others in random order, onto the normal
    plane of every g_j with `g_i . g_j < 0`, and the results are added up. They
    stay combinations of the g: the inner products are all that is needed.
    Source: Yu et al., arXiv 2001.06782, algorithm 1.

    Args:
      gram: inner products of the tasks' gradients, float32.
      key: PRNG key of the order.

    Returns:
      What to multiply each g with before adding them up.
    """
    count = len(gram)

    def project(i, key):
        def one(mix, j):
            against = jnp.minimum(mix @ gram[:, j], 0.0)
            against = jnp.where(i == j, 0.0, against)
            step = against / jnp.maximum(gram[j, j], 1e-20)
            return mix.at[j].add(-step), None

        order = jax.random.permutation(key, count)
        return jax.lax.scan(one, jnp.eye(count)[i], order)[0]

    keys = jax.random.split(key, count)
    return jnp.sum(jax.vmap(project)(jnp.arange(count), keys), axis=0)


def gram(gradients: Any) -> Float[Array, 'N N']:
    """Inner products of the gradients of N tasks.

    Args:
      gradients: tree of arrays [N, ...].

    Returns:
      Float32 [N, N].
    """
    rows = [g.reshape(len(g), -1) for g in jax.tree.leaves(gradients)]
    dot = lambda g: jnp.dot(g, g.T, precision=jax.lax.Precision.HIGHEST)
    return sum(map(dot, rows[1:]), dot(rows[0]))
