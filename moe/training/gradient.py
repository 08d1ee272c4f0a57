"""The gradient of a step's objective, over equal parts of its batch.

B examples a batch, M microbatches.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax

from moe.totals import Mean, Total
from moe.training.config import Config
from moe.training.objective import Objective, Sums, Terms
from moe.training.workload import Workload

# The gradient, the metrics, the statistics of the routers' states, and the
# variables without gradient, from (params, model_state, batch, key).
Gradient = Callable[[Any, Any, Any, Any], tuple[Any, dict, dict, dict]]


def make_gradient(config: Config, workload: Workload) -> Gradient:
    """Returns the gradient of the objective, over the microbatches of a batch.

    The objective O is a function of sums S over the batch, and of parameters:
    its gradient is `dO/dparams + sum_m (dS_m/dparams)^T dO/dS`, over the
    microbatches m. Of means, `dO/dS` depends on the counts alone, which are
    added up first; that costs no pass through the model. With
    `optimizer.exact_accumulation` all sums are, by another forward pass, so
    that products of means (the balance loss) are the whole batch's too; without
    it these are taken for each microbatch, and weighted by its tokens.

    Args:
      config: config of the run.
      workload: workload of the run.
    """
    objective = Objective(config, workload)
    count = config.optimizer.accumulation
    exact = config.optimizer.exact_accumulation or count == 1
    apart = workload.balances_gradients

    def rows(terms, params):
        """Returns what is differentiated: the objective, or its terms [N+1]."""
        if not apart:
            return objective.value(terms, params)
        weighted, auxiliary = objective.parts(terms, params)
        return jnp.stack([*weighted.values(), auxiliary])

    derivative = functools.partial(jax.jacrev if apart else jax.grad, rows)

    def part(params, whole, model_state, batch, key):
        """Returns the gradient through the sums of one microbatch."""

        def terms_of(params):
            terms, found = objective.sums(params, model_state, batch, key)
            return (terms if exact else _as_means(terms)), found

        own, pull, found = jax.vjp(terms_of, params, has_aux=True)
        at = own if whole is None else whole if exact else _share(own, whole)
        cotangent = derivative(argnums=0)(at, params)
        (grads,) = (jax.vmap(pull) if apart else pull)(cotangent)
        return grads, found

    def finish(params, grads, sums: Sums, model_state, key):
        """Adds the gradient of the objective by parameters of its own."""
        terms = objective.terms(sums)
        own = derivative(argnums=1)(terms, params)
        grads = jax.tree.map(jnp.add, grads, own)
        if apart:
            weighted, _ = objective.parts(terms, params)
            grads, model_state = workload.balance_gradients(
                weighted, grads, model_state, key
            )
        metrics = objective.metrics(sums, params)
        return grads, metrics, sums.state_statistics, model_state

    def gradient(params, model_state, batch, key):
        if count == 1:
            grads, (sums, state) = part(params, None, model_state, batch, key)
            return finish(params, grads, sums, state, key)
        # Strided, so that every device keeps a share of each part.
        split = lambda x: rearrange(x, '(b m) ... -> m b ...', m=count)
        parts = jax.tree.map(split, batch)
        given = lambda i: (
            jax.tree.map(lambda x: x[i], parts),
            jax.random.fold_in(key, i),
        )

        def look(model_state, i):
            """Sums without a gradient: of all, or the counts alone."""
            terms, (_, state) = objective.sums(params, model_state, *given(i))
            return terms if exact else _counts(_as_means(terms)), state

        def backward(model_state, i):
            given_i = given(i)
            grads, (sums, state) = part(params, whole, model_state, *given_i)
            return (grads, sums), state

        whole, _ = _added(look, count, model_state)
        (grads, sums), model_state = _added(backward, count, model_state)
        return finish(params, grads, sums, model_state, key)

    return gradient


def _added(one: Callable, count: int, state: Any) -> tuple[Any, Any]:
    """Adds up what `one(state, i)` returns first; it returns the next state."""

    def add(carry, i):
        total, state = carry
        found, state = one(state, i)
        return (jax.tree.map(jnp.add, total, found), state), None

    shapes, _ = jax.eval_shape(one, state, 0)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (total, state), _ = lax.scan(add, (zeros, state), jnp.arange(count))
    return total, state


def _is_total(x: Any) -> bool:
    return isinstance(x, Total)


def _as_means(terms: Terms) -> Terms:
    return jax.tree.map(lambda x: x.as_mean(), terms, is_leaf=_is_total)


def _counts(terms: Terms) -> Any:
    return jax.tree.map(lambda mean: mean.count, terms, is_leaf=_is_total)


def _share(own: Terms, counts: Any) -> Terms:
    """Returns a part's means, as those of the counts of the whole batch."""

    def share(mean, count):
        value = jnp.where(mean.count > 0, mean.term, 1.0)
        return Mean(value * count, count)

    return jax.tree.map(share, own, counts, is_leaf=_is_total)
