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
import functools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Bool, Float, Key, Shaped

from moe.parameters import declared
from moe.totals import Mean, Total, mean_over
from moe.types import Aux


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
      losses: auxiliary losses of the outputs by name, beside the mixtures'.
    """

    means: dict[str, Mean]
    aux: Aux | None
    model_state: dict[str, Any]
    predictions: dict[str, Predictions]
    losses: Mapping[str, Total] = {}


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

    def eval_details(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Returns what `moe.evaluate` keeps beside the metrics, JSON.

        Such as the accuracy of every class. By default there is nothing.

        Args:
          rows: arrays of `eval_rows` of all batches, NumPy.
        """
        return {}

    @abc.abstractmethod
    def finalize(
        self, variables: Any, data: Any, workdir: pathlib.Path
    ) -> dict[str, str]:
        """Writes the results of a finished run; all hosts call it.

        Returns:
          Texts by name, for TensorBoard.
        """

    # Optional methods.

    def notes(self, data: Any) -> list[str]:
        """Returns lines about the data, told when a run starts.

        Args:
          data: the data of `load_data`.
        """
        return []

    def weigh_losses(
        self, losses: dict[str, Float[Array, '']], params: Any
    ) -> dict[str, Float[Array, '']]:
        """Weighs the losses; auxiliary losses are not among them.

        The term of a loss without data is left out as a whole. Under gradient
        accumulation the slope of a term that is not linear in its loss is
        taken at each microbatch's mean, or, with `exact_accumulation`, at the
        step's.

        Args:
          losses: mean losses of a batch by name; 1 for one without data.
          params: the parameters, which may include learned weights.
        """
        return losses

    @property
    def balances_gradients(self) -> bool:
        """Returns whether `balance_gradients` makes the gradient."""
        return False

    def balance_gradients(
        self,
        terms: dict[str, Float[Array, '']],
        gradients: Any,
        model_state: dict[str, Any],
        key: Key[Array, ''],
    ) -> tuple[Any, dict[str, Any]]:
        """Makes one gradient of the gradients of N losses.

        Args:
          terms: the weighted losses by name, of the whole batch of the step.
          gradients: a tree of arrays [N + 1, ...]: gradients of the terms in
            their order, and of the weighted sum of the auxiliary losses.
          model_state: the variables without gradient, after this batch.
          key: PRNG key of the step.

        Returns:
          The gradient, and the next `model_state`.
        """
        raise NotImplementedError

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

    def flops_per_unit(self) -> dict[str, float]:
        """Returns the FLOPs of a step for a token or example, by part.

        What the model requires, forward and backward, and nothing that is
        computed again; the parts are those of `moe.parameters`. {} if it is not
        known.
        """
        return {}

    def example_bytes(self) -> dict[str, int]:
        """Returns bytes that an example of a step takes at least, by term.

        `batch` is the example itself; other terms are of the forward pass, at
        once and kept for the backward pass.
        """
        return {'batch': 1}

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
    return {name: mean_over(mask, value) for name, value in values.items()}


def state_of(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the variables without gradient, all but the parameters."""
    return {name: v for name, v in variables.items() if name != 'params'}
