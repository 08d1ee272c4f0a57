"""The interface between the training loop and what is trained.

A `Workload` is a model, its data and its loss. The loop calls it in this
order; everything else has a default:

    data = workload.load_data()
    variables = workload.init(key)
    for batch in workload.train_batches(data, host, num_hosts):
        outputs = workload.forward(variables, batch, train=True, rngs=...)
    for batch in workload.eval_batches(data, host, num_hosts):
        outputs = workload.forward(variables, batch)
    workload.eval_metrics(means, rows)
    workload.finalize(variables, data, workdir)

B examples a batch, L mixture layers, E experts.
"""

import abc
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, Shaped

from moe.parameters import declared
from moe.types import Aux


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean kept as its sum and count, which add up over batches.

    Attributes:
      sum: float32, of the values that count.
      count: float32, how many they are.
    """

    sum: Any
    count: Any

    @property
    def value(self) -> Any:
        """The mean; 0 where nothing counts."""
        return self.sum / jnp.maximum(self.count, 1.0)


class Predictions(NamedTuple):
    """What was predicted for the examples of a batch, or for its tokens.

    Attributes:
      logits: [..., V], as many as there are classes; 1 for a number.
      labels: [...], the class of each, or the number.
      mask: [...] bool, False for padding and for labels that are missing.
    """

    logits: Any
    labels: Any
    mask: Any


class Outputs(NamedTuple):
    """What a model makes of a batch.

    Attributes:
      means: by name. The loss is `loss`, or one `loss/TASK` for each of
        several tasks, of which the loss is the sum; others are logged only.
      aux: of the mixtures, stacked over the layers; None without any.
      model_state: the variables that no gradient moves, after this batch.
      predictions: by task, '' for the only one; what metrics of evaluation
        read.
    """

    means: dict[str, Mean]
    aux: Aux | None
    model_state: dict[str, Any]
    predictions: dict[str, Predictions]


class Objective(NamedTuple):
    """The parts of the objective of a batch, beside its value.

    Attributes:
      terms: of `Workload.weigh_losses`, by the names of the losses.
      auxiliary: weighted sum of the auxiliary losses, a scalar.
      metrics: device arrays by name.
      state_statistics: of the Aux, what moves the state of the routers.
      model_state: of the Outputs.
    """

    terms: dict[str, Any]
    auxiliary: Any
    metrics: dict[str, Any]
    state_statistics: dict[str, Any]
    model_state: dict[str, Any]


class Workload(abc.ABC):
    """A model, its data, its loss, and what a finished run leaves behind.

    It is made of a config; `load_data`, or `load_assets` in the folder of a
    run, completes it with what the model must know of the data.

    Attributes:
      unit: what the speed counts, a plural.
      units_per_step: how many of it a step takes.
      primary_metrics: names of the evaluation metrics that are printed while
        training; the first is what runs are compared by.
      higher_is_better: last parts of the names of evaluation metrics of which
        more is better; of all others less is.
      final_file: what `finalize` writes last; a run that has it is finished.
    """

    unit: str = 'tokens'
    units_per_step: int
    primary_metrics: tuple[str, ...] = ('loss',)
    higher_is_better: frozenset[str] = frozenset()
    final_file: str

    @abc.abstractmethod
    def load_data(self) -> Any:
        """Reads the data; raises ConfigError if it cannot be used."""

    @abc.abstractmethod
    def describe_data(self, data: Any) -> dict[str, Any]:
        """Returns what tells two sets of data apart: sizes, a fingerprint.

        It is JSON, is kept in the run's folder as `data.json`, and its sizes
        are printed when a run starts.
        """

    @abc.abstractmethod
    def train_batches(self, data: Any, host: int, num_hosts: int) -> Any:
        """Returns an endless iterator over this host's rows of the batches.

        Its `get_state()` is JSON, and `set_state` continues from there.
        """

    @abc.abstractmethod
    def eval_batches(
        self, data: Any, host: int, num_hosts: int
    ) -> Iterator[Any]:
        """Yields this host's rows of the whole validation set once."""

    @abc.abstractmethod
    def init(self, key: Key[Array, '']) -> dict[str, Any]:
        """Returns the model's variables before the first step."""

    @abc.abstractmethod
    def forward(self, variables: Any, batch: Any, **options: Any) -> Outputs:
        """Applies the model to a batch, and its loss to what comes out.

        Args:
          variables: of the model.
          batch: as the iterators above yield it.
          **options: `train` and `rngs` in training, for the model.
        """

    def eval_rows(self, outputs: Outputs, batch: Any) -> dict[str, Any]:
        """Returns arrays of the batch that `eval_metrics` needs whole.

        They are for metrics that are no means over examples, such as the area
        under a ROC curve. By default there are none.
        """
        return {}

    def eval_metrics(
        self, means: dict[str, float], rows: dict[str, Any]
    ) -> dict[str, float]:
        """Returns the metrics of an evaluation, logged as `eval/NAME`.

        Args:
          means: those of `forward`, over all batches, in double precision.
          rows: those of `eval_rows`, NumPy, of all batches.
        """
        return means

    @abc.abstractmethod
    def finalize(
        self, variables: Any, data: Any, workdir: pathlib.Path
    ) -> dict[str, str]:
        """Writes what the report shows of a finished run; all hosts call it.

        Returns:
          Texts by name, for TensorBoard.
        """

    # What follows is optional.

    def weigh_losses(
        self, losses: dict[str, Float[Array, '']], params: Any
    ) -> dict[str, Float[Array, '']]:
        """Returns the terms of the objective; the auxiliary losses are extra.

        Args:
          losses: the means of a batch that are losses, by name.
          params: the parameters, among which learned weights may be.
        """
        return losses

    def value_and_grad(
        self, objective: Callable[..., tuple[Any, Objective]]
    ) -> Callable[..., tuple[tuple[Any, Objective], Any]]:
        """Takes the gradient of the objective; tasks may be balanced here.

        Args:
          objective: function of (params, model_state, batch, key).

        Returns:
          A function of the same, which gives what
          `jax.value_and_grad(objective, has_aux=True)` does.
        """
        return jax.value_and_grad(objective, has_aux=True)

    def step_metrics(self, params: Any, state: dict[str, Any]) -> dict:
        """Returns device scalars to log, such as weights that are learned.

        Args:
          params: the parameters before the step.
          state: the model's state after its batch.
        """
        return {}

    def layer_metrics(self, stats: Any) -> dict[str, Any]:
        """Names the statistics of the mixtures `moe/LAYER/STATISTIC`.

        Args:
          stats: of `Aux`, NumPy, stacked over the layers.

        Returns:
          Floats, and lists of floats.
        """
        return {
            f'moe/layer_{i}/{name}': value.tolist()
            for name, values in stats.items()
            for i, value in enumerate(values)
        }

    @functools.cached_property
    def parameters(self) -> Any:
        """Declarations of the model's parameters, a tree of `Parameter`."""
        return declared(self.init, jax.random.key(0))

    def count_parameters(self) -> tuple[int, int]:
        """Returns how many there are, and how many are active for a token."""
        total = sum(p.size for p in jax.tree.leaves(self.parameters))
        return total, total

    def save_assets(self, data: Any, workdir: pathlib.Path) -> None:  # noqa: B027
        """Writes what the model knows of the data, once, at the start."""

    def load_assets(self, workdir: pathlib.Path) -> None:  # noqa: B027
        """Reads what `save_assets` wrote, in place of `load_data`."""


def masked_means(
    mask: Bool[Array, '...'] | None, **values: Shaped[Array, '...']
) -> dict[str, Mean]:
    """Returns the mean of each of some values over the valid examples.

    Args:
      mask: True for the valid ones; None if all are.
      **values: of each example, by name.
    """
    if mask is None:
        mask = jnp.ones(next(iter(values.values())).shape, bool)
    total = lambda x: jnp.sum(jnp.where(mask, x, 0.0))
    count = total(1.0)
    return {name: Mean(total(value), count) for name, value in values.items()}


def state_of(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the variables that no gradient moves."""
    return {name: v for name, v in variables.items() if name != 'params'}
