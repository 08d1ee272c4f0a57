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
        """Returns the mean; 0 if nothing counts."""
        return self.sum / jnp.maximum(self.count, 1.0)


class Predictions(NamedTuple):
    """Predictions for the examples, or the tokens, of a batch.

    Attributes:
      logits: [..., V], one for each class; V is 1 for a number.
      labels: [...], the class, or the number.
      mask: [...] bool, False for padding and missing labels.
    """

    logits: Any
    labels: Any
    mask: Any


class Outputs(NamedTuple):
    """The outputs of a model for a batch.

    Attributes:
      means: means by name. The loss is `loss`, or the sum of one `loss/TASK`
        for each of several tasks; other means are only logged.
      aux: Aux of the mixtures, stacked over the layers; None without mixtures.
      model_state: the variables without gradient, after this batch.
      predictions: predictions by task, '' for the only one, for evaluation
        metrics.
    """

    means: dict[str, Mean]
    aux: Aux | None
    model_state: dict[str, Any]
    predictions: dict[str, Predictions]


class Objective(NamedTuple):
    """The parts of the objective of a batch, beside its value.

    Attributes:
      terms: weighted losses of `Workload.weigh_losses`, by name.
      auxiliary: weighted sum of the auxiliary losses, a scalar.
      metrics: metrics by name, device arrays.
      state_statistics: statistics of the router states, see `Aux`.
      model_state: the variables without gradient, see `Outputs`.
    """

    terms: dict[str, Any]
    auxiliary: Any
    metrics: dict[str, Any]
    state_statistics: dict[str, Any]
    model_state: dict[str, Any]


class Workload(abc.ABC):
    """A model, its data, its loss, and the results of a finished run.

    It is made of a config; `load_data`, or `load_assets` in the folder of a
    run, adds what the model must know about the data.

    Attributes:
      unit: unit of the speed, a plural.
      units_per_step: number of units of a step.
      primary_metrics: names of the evaluation metrics that are printed during
        training; runs are compared by the first.
      higher_is_better: last parts of the names of evaluation metrics whose
        higher values are better.
      final_file: the file that `finalize` writes last; finished runs have it.
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
        """Returns sizes and a fingerprint that identify the data, JSON.

        It is kept in the run's folder as `data.json`, and its sizes are printed
        when a run starts.

        Args:
          data: the data of `load_data`.
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
        """Applies the model and its loss to a batch.

        Args:
          variables: variables of the model.
          batch: a batch of `train_batches` or `eval_batches`.
          **options: options of the model, in training `train` and `rngs`.
        """

    def eval_rows(self, outputs: Outputs, batch: Any) -> dict[str, Any]:
        """Returns arrays of the batch for metrics that are no means.

        Such as the area under a ROC curve. By default there are none.
        """
        return {}

    def eval_metrics(
        self, means: dict[str, float], rows: dict[str, Any]
    ) -> dict[str, float]:
        """Returns the metrics of an evaluation, logged as `eval/NAME`.

        Args:
          means: means of `forward` over all batches, in double precision.
          rows: arrays of `eval_rows` of all batches, NumPy.
        """
        return means

    @abc.abstractmethod
    def finalize(
        self, variables: Any, data: Any, workdir: pathlib.Path
    ) -> dict[str, str]:
        """Writes the results of a finished run; all hosts call it.

        Returns:
          Texts by name, for TensorBoard.
        """

    # Optional methods.

    def weigh_losses(
        self, losses: dict[str, Float[Array, '']], params: Any
    ) -> dict[str, Float[Array, '']]:
        """Weighs the losses; auxiliary losses are not among them.

        Args:
          losses: the losses of a batch by name.
          params: the parameters, which may include learned weights.
        """
        return losses

    def value_and_grad(
        self, objective: Callable[..., tuple[Any, Objective]]
    ) -> Callable[..., tuple[tuple[Any, Objective], Any]]:
        """Returns the objective's value and gradient; may balance tasks.

        Args:
          objective: function of (params, model_state, batch, key).

        Returns:
          A function of the same, which gives what
          `jax.value_and_grad(objective, has_aux=True)` does.
        """
        return jax.value_and_grad(objective, has_aux=True)

    def step_metrics(self, params: Any, state: dict[str, Any]) -> dict:
        """Returns metrics to log, such as learned weights.

        Args:
          params: the parameters before the step.
          state: the model's state after the step.

        Returns:
          Device scalars by name.
        """
        return {}

    def layer_metrics(self, stats: Any) -> dict[str, Any]:
        """Names the statistics of the mixtures `moe/LAYER/STATISTIC`.

        Args:
          stats: statistics of the `Aux`, NumPy, stacked over the layers.

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
        """Returns the declared parameters, a tree of `Parameter`."""
        return declared(self.init, jax.random.key(0))

    def count_parameters(self) -> tuple[int, int]:
        """Returns the number of parameters, and of those active for a token."""
        total = sum(p.size for p in jax.tree.leaves(self.parameters))
        return total, total

    def save_assets(self, data: Any, workdir: pathlib.Path) -> None:  # noqa: B027
        """Writes what the model must know about the data, when a run starts."""

    def load_assets(self, workdir: pathlib.Path) -> None:  # noqa: B027
        """Reads the files of `save_assets`, instead of `load_data`."""


def masked_means(
    mask: Bool[Array, '...'] | None, **values: Shaped[Array, '...']
) -> dict[str, Mean]:
    """Returns means over the valid examples, by name.

    Args:
      mask: True for valid examples; None if all are.
      **values: a value of each example, by name.
    """
    if mask is None:
        mask = jnp.ones(next(iter(values.values())).shape, bool)
    total = lambda x: jnp.sum(jnp.where(mask, x, 0.0))
    count = total(1.0)
    return {name: Mean(total(value), count) for name, value in values.items()}


def state_of(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the variables without gradient, all but the parameters."""
    return {name: v for name, v in variables.items() if name != 'params'}
