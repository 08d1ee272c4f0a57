"""The objective of a step, as a function of sums over its whole batch.

B examples a batch, L mixture layers.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe.totals import Derived, Mean, Total
from moe.training.config import Config
from moe.training.workload import Workload
from moe.types import Aux, Totals


class Sums(NamedTuple):
    """What a step knows of a batch; the sums of its parts add up.

    Attributes:
      means: means of the workload by name, see `Outputs`.
      losses: auxiliary losses by name; those of mixtures are stacked over the
        layers.
      stats: the statistics of the mixtures; None without mixtures.
      state_statistics: statistics of the router states, see `Aux`.
    """

    means: dict[str, Mean]
    losses: dict[str, Total]
    stats: Total | None
    state_statistics: dict[str, Any]


class Terms(NamedTuple):
    """The totals that the objective is a function of.

    Attributes:
      losses: losses of the workload by name.
      auxiliary: auxiliary losses with a coefficient by name.
    """

    losses: dict[str, Mean]
    auxiliary: dict[str, Total]


class Objective:
    """The scalar that training minimises.

    The sum of the workload's losses, as it weighs them, plus the auxiliary
    losses, each averaged over the mixture layers and times its coefficient. A
    loss without data is no term.

    Args:
      config: config of the run, with the coefficients.
      workload: workload of the run.
    """

    def __init__(self, config: Config, workload: Workload):
        self._coefficients, self._workload = config.coefficients, workload

    def sums(
        self, params: Any, model_state: Any, batch: Any, key: Any
    ) -> tuple[Terms, tuple[Sums, Any]]:
        """Applies the model to a batch, or a part of one.

        Args:
          params: the parameters.
          model_state: the variables without gradient.
          batch: examples.
          key: PRNG key of the batch.

        Returns:
          The totals that have a gradient; all sums, and the variables without
          gradient after this batch.
        """
        out = self._workload.forward(
            {'params': params, **model_state},
            batch,
            train=True,
            rngs={'router': key},
        )
        sums = Sums(out.means, dict(out.losses), None, {})
        if out.aux is not None:
            totals = totals_of(out.aux)
            losses = {**totals.losses, **out.losses}
            statistics = out.aux.state_statistics
            sums = Sums(out.means, losses, totals.stats, statistics)
        return self.terms(sums), (sums, out.model_state)

    def terms(self, sums: Sums) -> Terms:
        """Returns the totals that the objective is a function of.

        Args:
          sums: sums of a batch.
        """
        return Terms(
            {n: x for n, x in sums.means.items() if n.split('/')[0] == 'loss'},
            {n: x for n, x in sums.losses.items() if self._weighs(n)},
        )

    def _weighs(self, name) -> bool:
        weight = self._coefficients.get(name, 0.0)
        # A traced one is not 0; and 0 * value would have a gradient.
        return isinstance(weight, jax.Array) or bool(weight)

    def parts(
        self, terms: Terms, params: Any
    ) -> tuple[dict[str, Float[Array, '']], Float[Array, '']]:
        """Returns the weighted losses by name, and the weighted auxiliary sum.

        Args:
          terms: the totals of the step.
          params: the parameters, which may include learned weights.
        """
        # Any number where there is no data, whose logarithm is finite.
        losses = {
            name: jnp.where(mean.count > 0, mean.term, 1.0)
            for name, mean in terms.losses.items()
        }
        weighted = dict(self._workload.weigh_losses(losses, params))
        for name, mean in terms.losses.items():
            weighted[name] = jnp.where(mean.count > 0, weighted[name], 0.0)
        auxiliary = jnp.zeros(())
        for name, total in terms.auxiliary.items():
            auxiliary += self._coefficients[name] * jnp.mean(total.term)
        return weighted, auxiliary

    def value(self, terms: Terms, params: Any) -> Float[Array, '']:
        """Returns the objective.

        Args:
          terms: the totals of the step.
          params: the parameters.
        """
        weighted, auxiliary = self.parts(terms, params)
        return sum(weighted.values()) + auxiliary

    def metrics(self, sums: Sums, params: Any) -> dict[str, Any]:
        """Returns the metrics of a step.

        Args:
          sums: sums of the whole batch of the step.
          params: the parameters before the step.

        Returns:
          Device scalars by name, and the statistics of the mixtures as `moe`;
          `count/NAME` is how many examples or tokens are in a metric. One that
          counts none is absent: it has no meaning, though it is not NaN, which
          would stop a run under `jax_debug_nans`.
        """
        terms = self.terms(sums)
        metrics: dict[str, Any] = {}
        for name, total in [*sums.means.items(), *sums.losses.items()]:
            metrics[f'train/{name}'] = jnp.mean(total.term)
            metrics[f'count/train/{name}'] = jnp.sum(total.count)
        losses = terms.losses.values()
        metrics['train/loss'] = sum(mean.term for mean in losses)
        metrics['count/train/loss'] = sum(mean.count for mean in losses)
        metrics['train/objective'] = self.value(terms, params)
        if sums.stats is not None:
            metrics['moe'] = sums.stats.term
            metrics['count/moe'] = jnp.sum(sums.stats.count)
        return metrics


def totals_of(aux: Aux) -> Totals:
    """Returns the totals of an Aux; of one that has none, means over the parts.

    Args:
      aux: what the mixtures of a model return.
    """
    if aux.totals:
        return aux.totals
    one = lambda x: Mean(x, jnp.ones_like(x))
    stats = jax.tree.map(one, aux.stats)
    losses: dict[str, Total] = {n: one(x) for n, x in aux.losses.items()}
    return Totals(losses, Derived(stats, jnp.ones(()), _terms))


def _terms(stats) -> Any:
    is_mean = lambda x: isinstance(x, Mean)
    return jax.tree.map(lambda mean: mean.term, stats, is_leaf=is_mean)
