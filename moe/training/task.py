"""What a run trains on: the seam between the loop and a workload.

L mixture layers, E experts.
"""

import abc
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, Shaped

from moe.types import Aux

Sums = dict[str, Float[Array, '']]


class Task(abc.ABC):
    """A model, its data, its loss, and what a finished run leaves behind.

    Attributes:
      tokens_per_step: what the speed is told in.
      last_file: what `leave` writes last; a run that has it is finished.
    """

    tokens_per_step: int
    last_file: str

    @abc.abstractmethod
    def initial(self, key: Key[Array, '']) -> dict[str, Any]:
        """Returns the model's variables before the first step."""

    @abc.abstractmethod
    def sums(
        self, variables: Any, batch: Any, **options: Any
    ) -> tuple[Sums, Aux | None]:
        """Runs the model on a batch.

        Args:
          variables: of the model.
          batch: as the iterators below yield it.
          **options: `train` and `rngs`, of the model.

        Returns:
          Sums over the live examples: 'loss' and any other, and their 'count';
          and the Aux stacked over the mixture layers, None without any.
        """

    @abc.abstractmethod
    def load(self) -> Any:
        """Reads the data; raises ConfigError if it cannot be used."""

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
    def results(self, means: dict[str, float]) -> dict[str, float]:
        """Returns validation metrics from the means of `sums`."""

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
