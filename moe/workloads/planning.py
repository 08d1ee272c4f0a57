"""What plans ask of a workload: shapes and work of a step, from its config.

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
    """A run that is planned and not started; this serves any workload.

    Args:
      config: of the run.

    Attributes:
      config: of the run.
      workload: model, data and loss.
      batch: a global training batch, a tree of `jax.ShapeDtypeStruct`.
      agreement: largest relative difference of our count of a program's FLOPs
        from the compiler's, which includes what is no product.

    Raises:
      ConfigError: for data that cannot be used, where the shapes depend on it.
    """

    agreement = 0.3

    def __init__(self, config: Config):
        self.config = config
        self.workload = config.make_workload()
        self.batch = self._batch_shapes()

    def _batch_shapes(self) -> Any:
        """The shapes of the first batch of the data."""
        data = self.workload.load_data()
        first = next(self.workload.train_batches(data, 0, 1))
        shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.tree.map(shape, first)

    def useful_flops(self) -> float:
        """FLOPs of a step on all devices that the model itself asks for.

        By default those of all matrix products of the train step as it is
        written; where a workload recomputes nothing, that is the model's work.
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
        """How often a mixture layer runs in a step, each way."""
        return 0

    def least_communicated(self, mesh: Mapping[str, int]) -> float:
        """Bytes that a device has to receive for one mixture layer, one pass.

        Args:
          mesh: sizes by axis.
        """
        del mesh
        return 0.0

    @property
    def divides(self) -> dict[str, int]:
        """Sizes that mesh axes must divide, by axis; others are not tried."""
        return {'fsdp': self.config.data.batch_size}

    def variations(self) -> list[tuple[Changes, ...]]:
        """Returns what to try beside the mesh, by dotted name.

        Returns:
          Lists, from each of which one is taken; the most promising first.
        """
        return []


class TransformerPlanning(Planning, abc.ABC):
    """A planned run of a transformer, whose shapes its config gives.

    Attributes:
      seen: share of the S positions that a query sees in the mean.
    """

    agreement = 0.1
    seen: float
    config: TransformerRun

    @abc.abstractmethod
    def _batch_shapes(self) -> Any:
        """The shapes of a global batch."""

    def useful_flops(self) -> float:
        """FLOPs of a step on all devices that the model itself asks for.

        `(6 * active + 12 * L * D * seen * S) * tokens`: two for each parameter
        that multiplies a token, and for each query the two products with the
        keys and the values at the positions it sees, S/2 in the mean if it is
        causal; the backward pass costs twice the forward pass. Nothing that is
        recomputed counts. Source: PaLM, arXiv 2204.02311, appendix B.
        """
        model, length = self.config.model, self.config.tokens_per_example
        _, active = self.workload.count_parameters()
        attention = 12 * model.num_layers * model.d_model * length * self.seen
        tokens = self.config.data.batch_size * length
        return float((6 * active + attention) * tokens)

    def describe(self):
        """Returns settings of the blocks and of the mixture."""
        model = self.config.model
        return {
            'layers': model.num_layers,
            'remat': model.remat,
            'attention': ATTENTION_KERNELS.name_of(model.attention),
            'communication': COMMUNICATION.name_of(model.moe.communication),
            'dispatcher': DISPATCHERS.name_of(model.moe.dispatcher),
            'capacity_factor': getattr(model.moe.capacity, 'train', None),
        }

    @property
    def mixtures(self):
        """The mixture layers, for every microbatch."""
        config = self.config
        return len(config.model.moe_layers) * config.optimizer.accumulation

    def least_communicated(self, mesh):
        """Bytes that a device has to receive for one mixture layer, one pass.

        `2 * rows * D * bytes * (n - 1) / n`: the rows routed to its experts
        that are not its own, of n devices along `expert`, and what comes back;
        all experts being chosen equally often.
        """
        config, n = self.config, mesh['expert']
        model = config.model
        tokens = config.data.batch_size * config.tokens_per_example
        rows = tokens * model.moe.experts_per_token
        rows /= config.optimizer.accumulation
        rows /= math.prod(mesh[axis] for axis in BATCH_AXES)
        width = model.d_model * {'float32': 4, 'bfloat16': 2}[model.dtype]
        return 2.0 * rows * width * (n - 1) / n

    @property
    def divides(self):
        """Experts, key heads and the width."""
        model = self.config.model
        return {
            'expert': model.moe.num_experts,
            'tensor': model.num_kv_heads,
            'fsdp': model.d_model,
        }

    def variations(self):
        """Returns ways to communicate, and what the backward pass keeps."""
        # Tokens travel in capacity buffers, or as rows sorted by expert.
        ways: tuple[Changes, ...] = (
            {'communication': 'all_to_all', 'dispatcher': 'indexed'},
            {'communication': 'none'},
            {'communication': 'ragged', 'dispatcher': 'grouped'},
            {'communication': 'gather'},
        )
        communication = tuple(
            {f'model.moe.{field}': name for field, name in way.items()}
            for way in ways
        )
        remat = tuple({'model.remat': n} for n in reversed(REMAT_POLICIES))
        return [communication, remat]


def _products(jaxpr: Any) -> float:
    """FLOPs of the matrix products of a traced program, loops as they run.

    Those with vectors are left out, which compilers do not run as products.
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
    """FLOPs of one product, 0 if one side is a vector in any axis."""
    (contracted, _), (batch, _) = equation.params['dimension_numbers']
    left, right = (variable.aval for variable in equation.invars)
    summed = math.prod(left.shape[axis] for axis in contracted)
    stacked = math.prod(left.shape[axis] for axis in batch)
    if summed == 1 or stacked * summed in (left.size, right.size):
        return 0.0
    return 2.0 * summed * equation.outvars[0].aval.size
