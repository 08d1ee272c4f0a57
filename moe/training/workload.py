"""What a run trains on: the seam between the loop and a workload.

L mixture layers, E experts.
"""

import abc
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, Shaped

from moe.parameters import declared
from moe.types import Aux

Sums = dict[str, Float[Array, '']]


class Outcome(NamedTuple):
    """What a model makes of a batch.

    Attributes:
      sums: over the live examples: 'loss' and any other, and their 'count'.
      aux: stacked over the mixture layers; None without any.
      state: the variables that no gradient moves, after this batch.
    """

    sums: Sums
    aux: Aux | None
    state: dict[str, Any]


class Task(abc.ABC):
    """A model, its data, its loss, and what a finished run leaves behind.

    Attributes:
      unit: of what the speed counts.
      units_per_step: how many of it a step takes.
      last_file: what `leave` writes last; a run that has it is finished.
      rising: last parts of the names of results of which more is better; of
        all others less is.
    """

    unit: str = 'tokens'
    units_per_step: int
    last_file: str
    rising: frozenset[str] = frozenset()

    @abc.abstractmethod
    def initial(self, key: Key[Array, '']) -> dict[str, Any]:
        """Returns the model's variables before the first step."""

    @abc.abstractmethod
    def forward(self, variables: Any, batch: Any, **options: Any) -> Outcome:
        """Runs the model on a batch.

        Args:
          variables: of the model.
          batch: as the iterators below yield it.
          **options: `train` and `rngs`, of the model.
        """

    def means(self, sums: Sums) -> Sums:
        """Returns means from the sums, 'loss' among them, for the metrics."""
        return mean_of(sums)

    def terms(self, params: Any, means: Sums) -> Float[Array, 'N']:
        """Returns the terms of the objective that are not auxiliary losses."""
        return means['loss'][None]

    def gradients(
        self,
        pull: Callable[[tuple[Array, Array]], tuple[Any]],
        terms: Float[Array, 'N'],
        state: dict[str, Any],
        key: Key[Array, ''],
    ) -> tuple[Any, dict[str, Any]]:
        """Makes one gradient of those of the terms: by default their sum.

        Args:
          pull: from cotangents of (terms [N], sum of the weighted auxiliary
            losses) to that of the parameters.
          terms: of `terms`.
          state: of the Outcome.
          key: PRNG key of the step.

        Returns:
          The gradient of the parameters, and the state.
        """
        return pull((jnp.ones_like(terms), jnp.ones(())))[0], state

    def weights(self, params: Any, state: dict[str, Any]) -> dict[str, Any]:
        """Returns factors of the terms that move, for the metrics."""
        return {}

    def next_state(self, state: dict[str, Any], stats: Any) -> dict[str, Any]:
        """Returns the state after a step with these statistics."""
        return state

    @abc.abstractmethod
    def layer_metrics(self, stats: Any) -> dict[str, Any]:
        """Names the statistics of the mixtures, for the metrics.

        Args:
          stats: of the Aux, NumPy.

        Returns:
          Floats and lists of floats, `moe/LAYER/STATISTIC`.
        """

    @functools.cached_property
    def parameters(self) -> Any:
        """Declarations of the model's parameters, a tree of `Parameter`."""
        return declared(self.initial, jax.random.key(0))

    @abc.abstractmethod
    def count_parameters(self) -> tuple[int, int]:
        """Returns how many there are, and are active for a token."""

    def evaluate(self, variables: Any, batch: Any) -> Any:
        """Returns what `results` needs to know of a validation batch."""
        return self.forward(variables, batch).sums

    @abc.abstractmethod
    def load(self) -> Any:
        """Reads the data; raises ConfigError if it cannot be used.

        A task may learn of it what its model needs, such as the number of
        categories: this comes before `initial`.
        """

    def keep(self, data: Any, workdir: pathlib.Path) -> None:  # noqa: B027
        """Writes what was learned of the data, for `restored`, on one host."""

    def restored(self, workdir: pathlib.Path) -> 'Task':
        """Returns the task as it was in a run, without its data."""
        return self

    @abc.abstractmethod
    def describe(self, data: Any) -> dict[str, Any]:
        """Returns what tells two sets of data apart, JSON."""

    @abc.abstractmethod
    def announce(self, data: Any) -> str:
        """Returns the size of the data in words."""

    @abc.abstractmethod
    def train_batches(self, data: Any, host: int, num_hosts: int) -> Any:
        """Returns an endless iterator over this host's rows of the batches.

        Its `get_state()` is JSON, and `set_state` goes on from there.
        """

    @abc.abstractmethod
    def val_batches(
        self, data: Any, host: int, num_hosts: int
    ) -> Iterator[Any]:
        """Yields this host's rows of the whole validation set once."""

    @abc.abstractmethod
    def results(self, batches: Sequence[Any]) -> dict[str, float]:
        """Returns validation metrics of all that `evaluate` returned."""

    @abc.abstractmethod
    def headline(self, results: dict[str, float]) -> str:
        """Returns the result of an evaluation in a few words."""

    @abc.abstractmethod
    def leave(
        self, variables: Any, data: Any, workdir: pathlib.Path
    ) -> dict[str, str]:
        """Writes what the report shows of a finished run, on one host.

        Returns:
          Texts by name, for TensorBoard.
        """


def live_sums(
    mask: Bool[Array, '...'] | None, **values: Shaped[Array, '...']
) -> Sums:
    """The sums of values over the live examples, and their 'count'.

    Args:
      mask: True for live ones; None if all are.
      **values: of each example, by name.
    """
    if mask is None:
        mask = jnp.ones(values['loss'].shape, bool)
    total = lambda x: jnp.sum(jnp.where(mask, x, 0.0))
    return {n: total(x) for n, x in values.items()} | {'count': total(1.0)}


def mean_over(batches: Sequence[Sums]) -> dict[str, float]:
    """Means over the sums of all batches, in double precision."""
    total = {n: sum(float(s[n]) for s in batches) for n in batches[0]}
    count = total.pop('count')
    return {name: value / count for name, value in total.items()}


def mean_of(sums: Sums) -> Sums:
    """Each sum over the count, at least 1."""
    count = jnp.maximum(sums['count'], 1.0)
    return {name: v / count for name, v in sums.items() if name != 'count'}


def state_of(variables: dict[str, Any]) -> dict[str, Any]:
    """The variables that no gradient moves."""
    return {name: v for name, v in variables.items() if name != 'params'}
