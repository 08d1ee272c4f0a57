"""Trained runs, opened by `moe.load`: config, model, parameters, metrics.

E experts; leading axes [...] are those of the inputs.
"""

import abc
import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Bool, Float

from moe.config import ConfigError
from moe.metrics import Column, columns, read_metrics
from moe.training.checkpoint import restore_run, saved_steps
from moe.training.config import Config
from moe.training.restore import check_step
from moe.types import Routing

_PREDICTS = 'a run on a table or on images'


@dataclasses.dataclass(frozen=True)
class LayerRouting:
    """Which experts one mixture layer, or one gate, chose for its inputs.

    Attributes:
      place: name of the layer or gate in the metrics, such as 'layer_1'.
      weight: [..., E] float32, the combine weight of each expert; 0 for an
        expert that was not chosen.
      chosen: [..., E] bool, the experts that were chosen, before capacity. Of
        a mixture of two levels the experts are the groups of experts.
      routing: the `moe.types.Routing` of the layer; None for a gate.
    """

    place: str
    weight: Float[np.ndarray, '... E']
    chosen: Bool[np.ndarray, '... E']
    routing: Any = None


class TrainedRun(abc.ABC):
    """A trained run, whose parameters are read when first used.

    Args:
      config: config of the run.
      workdir: the run's folder.
      step: step of the checkpoint to read; None is the newest.

    Attributes:
      config: config of the run, checked.
      workdir: the run's folder.
      workload: workload of the run, see `moe.training.workload`.
      step: step of the checkpoint; None before the first one. Reading the
        parameters makes it that of an older one if the newest is damaged.
      model: the linen module.

    Raises:
      ConfigError: for a step without a checkpoint.
    """

    model: nn.Module

    def __init__(
        self, config: Config, workdir: pathlib.Path, step: int | None = None
    ):
        self.config, self.workdir = config, workdir
        self.workload = config.make_workload()
        self.workload.load_assets(workdir)
        steps = saved_steps(workdir)
        check_step(step, steps)
        self._asked = step
        self.step = steps[-1] if step is None and steps else step

    @functools.cached_property
    def variables(self) -> dict[str, Any]:
        """Returns the model's variables: 'params', and those without gradient.

        Raises:
          ConfigError: without a checkpoint.
          Damaged: if none is whole, or not the one that was asked for.
        """
        state = restore_run(
            self.config, self.workdir, self.workload, self._asked
        )
        self.step = int(state.step)
        return state.variables

    @functools.cached_property
    def metrics(self) -> dict[str, Column]:
        """Returns the logged metrics by name, with `steps` and `values`."""
        path = self.workdir / 'metrics.jsonl'
        return columns(read_metrics(path) if path.exists() else ())

    @abc.abstractmethod
    def logits(self, inputs: Any) -> Float[np.ndarray, '...']:
        """Applies the model, in evaluation mode.

        Args:
          inputs: inputs of the workload's model, see the subclass.

        Returns:
          Logits, float32.
        """

    @abc.abstractmethod
    def routing(self, inputs: Any) -> list[LayerRouting]:
        """Finds which experts the inputs go to, layer by layer.

        Args:
          inputs: inputs of the model, see `logits`.

        Returns:
          One entry a mixture layer; none for a dense model.
        """

    def sample(
        self,
        prompt: str,
        length: int = 400,
        *,
        seed: int = 0,
        temperature: float = 0.7,
        top: int = 0,
    ) -> str:
        """Continues a text, with a language model.

        Args:
          prompt: text to continue, one token or more.
          length: how many tokens to generate.
          seed: seed of the draws.
          temperature: divides the logits; 0 takes the likeliest token.
          top: number of likeliest tokens to draw from; 0 draws from all.

        Returns:
          The continuation, without the prompt.

        Raises:
          ConfigError: for a run of another workload, an empty prompt, or a
            `top` above the vocabulary.
        """
        raise self._other_workload('a language model')

    def stream(
        self, prompts: Sequence[str], length: int = 400, **options: Any
    ) -> Iterator[tuple[list[str], int]]:
        """Continues texts in one batch, with a language model.

        Args:
          prompts: texts to continue, each one token or more.
          length: the most tokens to generate for each.
          **options: those of `sample`, and `top_p` and `stop`, ids of tokens
            that end a text, of `moe.workloads.lm.sampling.Sampling`.

        Yields:
          What was added to each text, and the number of tokens of all.

        Raises:
          ConfigError: as `sample`; and for several prompts that with the
            length have more positions than the model is trained on.
        """
        raise self._other_workload('a language model')

    def read_inputs(
        self,
        files: str,
        *,
        columns: Sequence[str] = (),
        on_error: Literal['raise', 'skip'] = 'raise',
    ) -> tuple[Any, Any]:
        """Reads tables, or finds images, to be prepared as in training.

        Args:
          files: a path or a glob; of images also a folder.
          columns: names of the columns of tables without a header; () for
            those of the training.
          on_error: whether a row, or an image, that cannot be used is an error.

        Returns:
          The inputs of `predict_batches`, of a table also those of `logits`;
          and those that were left out: their `count`, and the `lines` in which
          they are told.

        Raises:
          ConfigError: for a run of another workload, or files that cannot be
            used.
        """
        raise self._other_workload(_PREDICTS)

    def predict_batches(
        self, inputs: Any, left_out: Any, *, top: int | None = None
    ) -> Iterator[dict[str, list[Any]]]:
        """Returns columns of predictions for rows or images, batch by batch.

        The first column is `row`, the number of each from 1 among those of all
        files, those that were left out included.

        Args:
          inputs: first result of `read_inputs`.
          left_out: its other result, to which those are added that cannot be
            predicted.
          top: of images, the number of likeliest classes that are told; None
            for the probability of every class.

        Raises:
          ConfigError: for a run of another workload, or a row or an image
            without a prediction, unless such are skipped.
        """
        raise self._other_workload(_PREDICTS)

    def predict(
        self, files: str, *, top: int | None = None, **options: Any
    ) -> dict[str, list[Any]]:
        """Predicts for every row of tables, or for every image.

        Args:
          files: see `read_inputs`.
          top: see `predict_batches`.
          **options: options of `read_inputs`.

        Returns:
          Columns by name, one value a row: `row`, its number from 1, and the
          predictions.

        Raises:
          ConfigError: for a run of another workload.
        """
        inputs, left_out = self.read_inputs(files, **options)
        found: dict[str, list[Any]] = {}
        for part in self.predict_batches(inputs, left_out, top=top):
            for name, values in part.items():
                found.setdefault(name, []).extend(values)
        return found

    def _other_workload(self, wanted: str) -> ConfigError:
        return ConfigError(
            'workdir', str(self.workdir), f'the folder of {wanted}'
        )


def by_layer(
    routing: Any, layers: Sequence[int], shape: tuple[int, ...]
) -> list[LayerRouting]:
    """Splits the routing of a stack of mixtures by layer.

    Args:
      routing: the Routing of an `Aux`, stacked over the mixture layers; None
        for a model without mixtures that assign tokens.
      layers: numbers of the mixture layers.
      shape: shape of the tokens, such as [B, S].

    Returns:
      One entry a layer, its arrays [*shape, E], NumPy.
    """
    if routing is None:
        return []
    if not isinstance(routing, Routing):  # a pair of two levels: the outer
        routing = routing[0]
    found = []
    for i, layer in enumerate(layers):
        one = jax.device_get(jax.tree.map(lambda x, i=i: x[i], routing))
        weight = np.asarray(one.gates())
        chosen = np.asarray(one.assignments()) > 0
        size = weight.shape[-1]
        found.append(
            LayerRouting(
                f'layer_{layer}',
                weight.reshape(*shape, size),
                chosen.reshape(*shape, size),
                one,
            )
        )
    return found


def as_gates(
    named: Mapping[str, Float[np.ndarray, 'B E']],
) -> list[LayerRouting]:
    """Returns the routing of dense gates.

    Args:
      named: weights by name of the gate; an expert of weight 0 was not chosen.
    """
    return [
        LayerRouting(place, weight, weight != 0)
        for place, weight in named.items()
    ]
