"""Task balancing: how the losses of several tasks become one gradient.

N tasks.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from moe.config import NaturalFloat, PositiveFloat, Registry

TASK_BALANCING = Registry('task balancing')


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
      log_variance: s, the learned logarithm of the variance; 0 at first.
      regression: whether the loss is a squared error.

    Returns:
      The terms of the objective.
    """
    scale = jnp.where(regression, 0.5, 1.0)
    return scale * jnp.exp(-log_variance) * losses + log_variance / 2


class GradNormState(NamedTuple):
    """The state of GradNorm between steps.

    Attributes:
      weights: weights of the tasks, float32 [N], N in sum.
      initial: losses of the first step, float32 [N]; 0 before it.
    """

    weights: Any
    initial: Any


def gradnorm(
    state: GradNormState,
    losses: Float[Array, 'N'],
    norms: Float[Array, 'N'],
    *,
    alpha: float,
    rate: float,
) -> GradNormState:
    """Updates the tasks' weights so that all tasks train at one rate.

    With `G_i = w_i * norm_i` and the relative rate `r_i = (L_i / L_i(0)) /
    mean`, it takes a step of gradient descent on `sum_i |G_i - mean(G) *
    r_i^alpha|`, with a constant target, and scales the weights to sum to N.
    Source: Chen et al., arXiv 1711.02257, eq. 1-2 and algorithm 1.

    A task whose gradient is 0, such as one without a label in the batch, takes
    no part: its weight stays, and the others keep their sum.

    Args:
      state: the state before the step.
      losses: mean loss of each task, unweighted, float32, positive.
      norms: norms of the gradients of these losses by the shared parameters.
      alpha: how strongly tasks that train slowly are favoured.
      rate: learning rate of the weights.

    Returns:
      The next state.
    """
    here = norms > 0
    mean = lambda x: (
        jnp.sum(jnp.where(here, x, 0.0)) / jnp.maximum(jnp.sum(here), 1)
    )
    new = here & (state.initial <= 0)
    initial = jnp.where(new, losses, state.initial)
    ratio = losses / jnp.maximum(initial, 1e-9)
    pace = ratio / jnp.maximum(mean(ratio), 1e-9)
    size = state.weights * norms
    target = mean(size) * pace**alpha
    weights = state.weights - rate * jnp.sign(size - target) * norms
    weights = jnp.maximum(weights, 1e-3)
    weights *= mean(state.weights) / jnp.maximum(mean(weights), 1e-9)
    return GradNormState(jnp.where(here, weights, state.weights), initial)


def pcgrad(gram: Float[Array, 'N N'], key: Key[Array, '']) -> Float[Array, 'N']:
    """Returns weights of gradients that are projected where they conflict.

    Each g_i is projected onto the normal plane of every g_j with `g_i . g_j <
    0`, in random order, and the results are summed. The projections are linear
    combinations of the g, for which their inner products suffice.
    Source: Yu et al., arXiv 2001.06782, algorithm 1.

    Args:
      gram: inner products of the tasks' gradients, float32.
      key: PRNG key of the order.

    Returns:
      The factor of each g in the sum.
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
    """Returns the inner products of the gradients of N tasks.

    Args:
      gradients: a tree of arrays [N, ...].

    Returns:
      Float32 [N, N].
    """
    rows = [g.reshape(len(g), -1) for g in jax.tree.leaves(gradients)]
    dot = lambda g: jnp.dot(g, g.T, precision=jax.lax.Precision.HIGHEST)
    return sum(map(dot, rows[1:]), dot(rows[0]))


@dataclasses.dataclass(frozen=True)
class Balancing:
    """How the tasks' losses become one objective and one gradient.

    Subclasses are frozen dataclasses, registered in `TASK_BALANCING`; their
    fields are the options of the section `balance`.

    Attributes:
      weights: a fixed weight of each task's loss; () for 1 each.
      pcgrad: whether conflicting gradients of the shared parameters are
        projected (arXiv 2001.06782).
      learned: names of additional parameters [N], initially 0.
    """

    learned: ClassVar[tuple[str, ...]] = ()
    weights: tuple[NaturalFloat, ...] = ()
    pcgrad: bool = False

    @property
    def by_task(self) -> bool:
        """Returns whether the gradient of each task is needed separately."""
        return self.pcgrad

    def state(self, count: int) -> dict[str, Any]:
        """Returns the state before the first step, without gradient.

        Args:
          count: N, number of tasks.
        """
        del count
        return {}

    def terms(
        self,
        losses: Float[Array, 'N'],
        params: Any,
        squared: Bool[Array, 'N'],
    ) -> Float[Array, 'N']:
        """Returns the terms of the objective.

        Args:
          losses: mean loss of each task, float32.
          params: all parameters, including those of `learned`.
          squared: whether each loss is a squared error.
        """
        losses = self._scaled(losses, params, squared)
        return losses * jnp.array(self.weights) if self.weights else losses

    def _scaled(self, losses, params, squared) -> Float[Array, 'N']:
        """Returns the losses, scaled by what is learned."""
        del params, squared
        return losses

    def step(
        self,
        state: Any,
        terms: Float[Array, 'N'],
        products: Float[Array, 'N N'],
    ) -> tuple[Float[Array, 'N'], Any]:
        """Returns weights of the tasks' gradients, and the next state.

        Called where `by_task` holds.

        Args:
          state: the state before this step.
          terms: weighted losses of the tasks.
          products: inner products of the tasks' gradients of the shared
            parameters, float32.
        """
        del products
        return jnp.ones_like(terms), state

    def moving_weights(self, params: Any, state: Any) -> Any:
        """Returns the weights that training changes, for the metrics.

        Args:
          params: all parameters.
          state: the state after this step.

        Returns:
          Weights, float32 [N]; None if they are constant.
        """
        del params, state
        return None


@TASK_BALANCING.register('static')
@dataclasses.dataclass(frozen=True)
class Static(Balancing):
    """The sum of the tasks' losses, each times its weight."""


@TASK_BALANCING.register('uncertainty')
@dataclasses.dataclass(frozen=True)
class Uncertainty(Balancing):
    """Weights by a learned variance of each task; see `uncertainty`."""

    learned = ('log_variance',)

    def _scaled(self, losses, params, squared):
        return uncertainty(losses, params['log_variance'], squared)

    def moving_weights(self, params, state):
        """Returns the inverse variances."""
        del state
        return jnp.exp(-params['log_variance'])


@TASK_BALANCING.register('gradnorm')
@dataclasses.dataclass(frozen=True)
class GradNorm(Balancing):
    """Weights by which all tasks train at one rate; see `gradnorm`.

    Attributes:
      alpha: how strongly tasks that train slowly are favoured.
      rate: learning rate of the weights.
    """

    alpha: NaturalFloat = 1.5
    rate: PositiveFloat = 0.025

    @property
    def by_task(self):
        """Returns whether the gradient of each task is needed separately."""
        return True

    def state(self, count):
        """Returns a `GradNormState` before the first step, as a dictionary."""
        start = GradNormState(jnp.ones(count), jnp.zeros(count))
        return {'gradnorm': start._asdict()}

    def step(self, state, terms, products):
        """Returns this step's weights, and the state of the next step."""
        before = GradNormState(**state['gradnorm'])
        norms = jnp.sqrt(jnp.diag(products))
        after = gradnorm(before, terms, norms, alpha=self.alpha, rate=self.rate)
        return before.weights, {**state, 'gradnorm': after._asdict()}

    def moving_weights(self, params, state):
        """Returns the weights of the next step."""
        del params
        return state['gradnorm']['weights']
