"""What plans need from a workload: shapes and FLOPs of a step, by config.

B examples a batch, S tokens an example, L layers, D width.
"""

import abc
import itertools
import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.extend import core

from moe.dispatch import DISPATCHERS
from moe.models.transformer import REMAT_POLICIES
from moe.ops import ATTENTION_KERNELS
from moe.parallel import COMMUNICATION
from moe.parallel.mesh import BATCH_AXES
from moe.training.config import Config
from moe.training.step import init_state, make_train_step
from moe.workloads.transformer import TransformerRun

Changes = dict[str, Any]


class Planning:
    """A run to be planned, of any workload.

    Args:
      config: config of the run.

    Attributes:
      config: config of the run.
      workload: workload of the run.
      batch: a global training batch, a tree of `jax.ShapeDtypeStruct`.
      agreement: largest allowed relative difference of our count of a program's
        FLOPs from the compiler's, which counts more than products.

    Raises:
      ConfigError: for data that cannot be used, where the shapes depend on it.
    """

    agreement = 0.3

    def __init__(self, config: Config):
        self.config = config
        self.workload = config.make_workload()
        self.batch = self._batch_shapes()

    def _batch_shapes(self) -> Any:
        """Returns the shapes of the first batch of the data."""
        data = self.workload.load_data()
        first = next(self.workload.train_batches(data, 0, 1))
        shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.tree.map(shape, first)

    def useful_flops(self) -> float:
        """Returns the FLOPs of a step that the model requires, on all devices.

        By default those of all matrix products of the train step, which for a
        workload without recomputation is the model's work.
        """
        make = lambda: init_state(self.config, workload=self.workload)
        step = make_train_step(self.config, self.workload)
        jaxpr = jax.make_jaxpr(step)(jax.eval_shape(make), self.batch)
        return _products(jaxpr.jaxpr)

    def describe(self) -> dict[str, Any]:
        """Returns settings of the model that a plan shows, JSON."""
        return {}

    @property
    def mixtures(self) -> int:
        """Returns how often mixture layers run in a forward pass of a step."""
        return 0

    def rows_of_experts(self, mesh: Mapping[str, int]) -> float:
        """Returns the rows of a mixture layer and pass, a device, in the mean.

        Args:
          mesh: sizes of the mesh by axis.
        """
        del mesh
        return math.inf

    def least_communicated(self, mesh: Mapping[str, int]) -> float:
        """Returns the bytes a device must receive for a mixture layer and pass.

        Args:
          mesh: sizes of the mesh by axis.
        """
        del mesh
        return 0.0

    @property
    def divides(self) -> dict[str, int]:
        """Returns the sizes that mesh axes must divide, by axis."""
        return {'fsdp': self.config.data.batch_size}

    def variations(self) -> list[tuple[Changes, ...]]:
        """Returns changes of the config to compare, beside the mesh.

        Returns:
          Lists of alternatives by dotted name, the most promising first.
        """
        return []


class TransformerPlanning(Planning, abc.ABC):
    """A planned run of a transformer, whose shapes its config gives.

    Attributes:
      seen: mean share of the S positions that a query attends to.
    """

    agreement = 0.1
    seen: float
    config: TransformerRun

    @abc.abstractmethod
    def _batch_shapes(self) -> Any:
        """Returns the shapes of a global batch."""

    def useful_flops(self) -> float:
        """Returns the FLOPs of a step that the model requires, on all devices.

        Those of the workload for each token. Nothing that is recomputed counts.
        """
        config = self.config
        tokens = config.data.batch_size * config.tokens_per_example
        return sum(self.workload.flops_per_unit().values()) * tokens

    def describe(self):
        """Returns settings of the blocks and of the mixture."""
        model = self.config.model
        return {
            'layers': model.num_layers,
            'remat': model.remat,
            'attention': ATTENTION_KERNELS.name_of(model.attention),
            'communication': COMMUNICATION.name_of(model.moe.communication),
            'dispatcher': model.moe.dispatcher
            and DISPATCHERS.name_of(model.moe.dispatcher),
            'capacity_factor': getattr(model.moe.capacity, 'train', None),
        }

    @property
    def mixtures(self):
        """Returns the number of mixture layers times that of microbatches."""
        config = self.config
        mixtures = len(config.model.training_mixtures)
        return mixtures * config.optimizer.accumulation

    def rows_of_experts(self, mesh):
        """Returns the assignments of a microbatch over the devices."""
        config = self.config
        tokens = config.data.batch_size * config.tokens_per_example
        rows = tokens * config.model.moe.experts_per_token
        rows /= config.optimizer.accumulation
        return rows / math.prod(mesh[axis] for axis in BATCH_AXES)

    def least_communicated(self, mesh):
        """Returns the bytes a device must receive for a mixture layer and pass.

        `2 * rows * D * bytes * (n - 1) / n` for n devices along `expert`: the
        rows of other devices for its experts, and the outputs for its own rows,
        all experts being chosen equally often.
        """
        model, n = self.config.model, mesh['expert']
        width = model.d_model * {'float32': 4, 'bfloat16': 2}[model.dtype]
        return 2.0 * self.rows_of_experts(mesh) * width * (n - 1) / n

    @property
    def divides(self):
        """Returns the numbers of experts and key heads, and the width."""
        model = self.config.model
        return {
            'expert': model.moe.num_experts,
            'tensor': model.num_kv_heads,
            'fsdp': model.d_model,
        }

    def variations(self):
        """Returns kinds of communication, and policies of rematerialisation."""
        # By capacity buffers, or by rows sorted by expert.
        kinds: tuple[Changes, ...] = (
            {'communication': 'all_to_all', 'dispatcher': 'indexed'},
            {'communication': 'none'},
            {'communication': 'ragged', 'dispatcher': 'grouped'},
            {'communication': 'gather'},
        )
        communication = tuple(
            {f'model.moe.{field}': name for field, name in kind.items()}
            for kind in kinds
        )
        remat = tuple({'model.remat': n} for n in reversed(REMAT_POLICIES))
        return [communication, remat]


def _products(jaxpr: Any) -> float:
    """Returns the FLOPs of the matrix products of a traced program.

    Loop bodies count as often as they run. Products with vectors, which
    compilers do not run as matrix products, do not count.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        params = equation.params
        if equation.primitive.name == 'dot_general':
            total += _product(equation)
        scanned = equation.primitive.name == 'scan'
        times = params['length'] if scanned else 1
        inner = itertools.chain.from_iterable(
            value if isinstance(value, (tuple, list)) else [value]
            for value in params.values()
        )
        for part in inner:
            if isinstance(part, core.ClosedJaxpr):
                total += times * _products(part.jaxpr)
            elif isinstance(part, core.Jaxpr):
                total += times * _products(part)
    return total


def _product(equation: Any) -> float:
    """Returns the FLOPs of one product, 0 if one side is a vector."""
    (contracted, _), (batch, _) = equation.params['dimension_numbers']
    left, right = (variable.aval for variable in equation.invars)
    summed = math.prod(left.shape[axis] for axis in contracted)
    stacked = math.prod(left.shape[axis] for axis in batch)
    if summed == 1 or stacked * summed in (left.size, right.size):
        return 0.0
    return 2.0 * summed * equation.outvars[0].aval.size
