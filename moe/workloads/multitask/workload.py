"""The workload of multi-task learning.

B examples a batch, T tasks, O outputs a task at most, N examples.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moe import files
from moe.config import ConfigError, NaturalFloat, OneOf, PositiveInt
from moe.parallel import replicated
from moe.training.config import Config
from moe.training.evaluation import evaluate, metrics_of
from moe.training.workload import (
    Mean,
    Outputs,
    Predictions,
    Workload,
    state_of,
)
from moe.workloads.multitask.balancing import (
    TASK_BALANCING,
    Balancing,
    Static,
    gram,
    pcgrad,
)
from moe.workloads.multitask.data import (
    SOURCES,
    Data,
    Inputs,
    Source,
    SyntheticSource,
    rows,
)
from moe.workloads.multitask.mixtures import MIXTURES
from moe.workloads.multitask.model import MultiTask as MultiTaskModel
from moe.workloads.multitask.model import MultiTaskConfig, gate_metrics
from moe.workloads.multitask.targets import Target


@dataclasses.dataclass(frozen=True)
class RowsConfig:
    """The config of rows of features and labels.

    Attributes:
      source: source of the rows.
      batch_size: number of rows of a step, over all hosts.
    """

    source: Annotated[Source, OneOf(SOURCES)] = field(
        default_factory=SyntheticSource
    )
    batch_size: PositiveInt = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiTaskRun(Config):
    """The config of a run of multi-task learning.

    Attributes:
      balance: how the tasks' losses become one objective.
    """

    model: MultiTaskConfig = field(default_factory=MultiTaskConfig)
    data: RowsConfig = field(default_factory=RowsConfig)
    losses: Mapping[str, NaturalFloat] = field(
        default_factory=lambda: {'regularization': 1.0}
    )
    balance: Annotated[Balancing, OneOf(TASK_BALANCING)] = field(
        default_factory=Static
    )

    def __post_init__(self):
        super().__post_init__()
        weights, count = self.balance.weights, self.data.source.num_tasks
        if weights and len(weights) != count:
            allowed = f'() or one number for each of {count} tasks'
            raise ConfigError('balance.weights', weights, allowed)
        factor = self.losses.get('regularization', 0.0)
        if self.model.has_penalty and not factor:
            allowed = 'above 0, as networks of the model have a penalty'
            raise ConfigError('losses.regularization', factor, allowed)

    @property
    def known_losses(self):
        """Returns the names of all auxiliary losses."""
        return (*super().known_losses, 'l0', 'regularization')

    def make_workload(self) -> 'MultiTask':
        """Returns the workload that this describes."""
        return MultiTask(self)


class MultiTask(Workload):
    """Several labels an example, each with its own loss and tower.

    Batches are dictionaries of 'numeric' float32 [B, F], 'categorical' int32
    [B, C] where there are any, 'label' float32 [B, T], 'mask' bool [B, T],
    the labels there are, and 'valid' bool [B], False for padding.

    Attributes:
      model: the linen module.
      targets: the targets of the tasks, in order. If the source does not know
        them without its rows, they and the model are made by `load_data` or
        `load_assets`.
    """

    unit = 'examples'
    final_file = 'results.json'
    higher_is_better = frozenset({'accuracy', 'auc', 'gauc'})
    targets: tuple[Target, ...]
    model: MultiTaskModel

    def __init__(self, config: MultiTaskRun):
        self._config = config
        self.units_per_step = config.data.batch_size
        inputs = config.data.source.inputs()
        if inputs is not None:
            self.build(inputs)

    def build(self, inputs: Inputs) -> None:
        """Makes the model.

        Args:
          inputs: the tasks and features of the data.

        Raises:
          ConfigError: for a mixture that does not fit the tasks.
        """
        self.targets, self._inputs = inputs.targets, inputs
        own = (f'{t.name}/{t.primary_metric}' for t in self.targets)
        self.primary_metrics = ('loss', *own)
        outputs = max(target.num_outputs for target in self.targets)
        model = self._config.model
        try:
            self.model = model.build(
                len(self.targets),
                outputs,
                tables=inputs.tables,
                table_of=inputs.table_of,
                learned=self._config.balance.learned,
            )
            jax.eval_shape(self.init, jax.random.key(0))
        except ConfigError:
            raise
        except ValueError as error:
            name = MIXTURES.name_of(model.mixture)
            allowed = f'able to serve these tasks: {error}'
            raise ConfigError('config.model.mixture', name, allowed) from None

    def load_data(self):
        """Reads the rows, and makes the model for them."""
        data = self._config.data.source.load(self._config.data.batch_size)
        self.build(data.inputs)
        return data

    def save_assets(self, data: Data, workdir: pathlib.Path):
        """Writes what preprocessing learned from the training rows."""
        data.save(workdir)

    def load_assets(self, workdir: pathlib.Path):
        """Makes the model for the rows of a run."""
        self.build(self._config.data.source.restore(workdir))

    def example_bytes(self):
        """Returns those of the columns."""
        inputs = self._inputs
        return {'batch': 4 * (inputs.num_numeric + len(inputs.table_of))}

    def describe_data(self, data: Data):
        """Returns sizes and the fingerprint of the rows."""
        return data.sizes()

    def notes(self, data: Data):
        """Returns what is odd about the rows."""
        return data.notes()

    def init(self, key):
        """Returns the model's variables, and the state of task balancing."""
        batch = {'numeric': jnp.zeros((1, self._inputs.num_numeric))}
        columns = len(self._inputs.table_of)
        batch['categorical'] = jnp.zeros((1, columns), jnp.int32)
        variables = dict(self.model.init(key, batch))
        return variables | self._config.balance.state(len(self.targets))

    def forward(self, variables, batch, **options):
        """Applies the model; each task has a mean loss over its labels."""
        state = state_of(variables)
        (logits, aux), moved = self.model.apply(
            variables,
            batch,
            mutable=['batch_stats'] if options.get('train') else [],
            **options,
        )
        mask = batch['mask'] & batch['valid'][:, None]
        label = jnp.where(mask, batch['label'], 0.0)
        losses = jnp.where(mask, self.losses(logits, label), 0.0)
        means, predictions = {}, {}
        for i, target in enumerate(self.targets):
            count = jnp.sum(mask[:, i], dtype=float)
            means[f'loss/{target.name}'] = Mean(jnp.sum(losses[:, i]), count)
            predictions[target.name] = Predictions(
                logits[:, i, : target.num_outputs], label[:, i], mask[:, i]
            )
        return Outputs(means, aux, {**state, **moved}, predictions)

    def losses(
        self, logits: Float[Array, 'B T O'], label: Float[Array, 'B T']
    ) -> Float[Array, 'B T']:
        """Returns cross-entropies in nats and squared errors, float32."""
        found = [
            target.loss(logits[:, i, : target.num_outputs], label[:, i])
            for i, target in enumerate(self.targets)
        ]
        return jnp.stack(found, axis=1)

    def weigh_losses(self, losses, params):
        """Returns the tasks' weighted losses."""
        names = [f'loss/{target.name}' for target in self.targets]
        by_task = jnp.stack([losses[name] for name in names])
        squared = jnp.array([target.squared for target in self.targets])
        terms = self._config.balance.terms(by_task, params, squared)
        return dict(zip(names, terms, strict=True))

    @property
    def balances_gradients(self):
        """Returns whether the gradient of each task is needed separately."""
        return self._config.balance.by_task

    def balance_gradients(self, terms, gradients, model_state, key):
        """Sums the tasks' gradients, weighted or projected."""
        balance = self._config.balance
        # Only gradients of shared parameters can conflict.
        own = jax.tree.map(lambda p: 'task' in p.axes, self.parameters)
        leaves = map(jax.tree.leaves, (own, gradients))
        pairs = zip(*leaves, strict=True)
        products = gram([g[:-1] for is_own, g in pairs if not is_own])
        by_task = jnp.stack([terms[f'loss/{t.name}'] for t in self.targets])
        weights, state = balance.step(model_state, by_task, products)
        mixed = weights
        if balance.pcgrad:
            products = weights[:, None] * products * weights
            mixed = weights * pcgrad(products, key)
        add = lambda is_own, g: (
            g[-1] + jnp.tensordot(weights if is_own else mixed, g[:-1], 1)
        )
        return jax.tree.map(add, own, gradients), state

    def step_metrics(self, params, state):
        """Returns each task's weight, if training changes it."""
        values = self._config.balance.moving_weights(params, state)
        if values is None:
            return {}
        return {
            f'train/weight/{target.name}': values[i]
            for i, target in enumerate(self.targets)
        }

    def layer_metrics(self, stats):
        """Names the statistics by gate, `moe/GATE/STATISTIC`."""
        names = [target.name for target in self.targets]
        return gate_metrics(stats, names)

    def eval_rows(self, outputs, batch):
        """Returns each task's predictions, and the rows' users."""
        users = {'user': batch['user']} if 'user' in batch else {}
        return {'predictions': outputs.predictions, **users}

    def eval_metrics(self, means, rows):
        """Returns the sum of the tasks' mean losses, and metrics by task.

        A task without a label has none, and without any label there is no loss.
        """
        found = {n: v for n, v in means.items() if not n.startswith('loss/')}
        for target in self.targets:
            logits, label, mask = rows['predictions'][target.name]
            metrics = target.metrics(logits, label, mask, rows.get('user'))
            found |= {f'{target.name}/{k}': v for k, v in metrics.items()}
        names = [f'{t.name}/{t.loss_name}' for t in self.targets]
        losses = [found[name] for name in names if name in found]
        return {'loss': sum(losses), **found} if losses else found

    def predictions(
        self, logits: Float[np.ndarray, 'N T O']
    ) -> dict[str, list[Any]]:
        """Returns columns of predictions by name.

        Args:
          logits: outputs of the model, float32.
        """
        columns: dict[str, list[Any]] = {}
        for i, target in enumerate(self.targets):
            columns |= target.predictions(logits[:, i, : target.num_outputs])
        return columns

    def train_batches(self, data: Data, host, num_hosts):
        """Returns the endless batches of the source's rows."""
        size = self._config.data.batch_size
        return data.train_batches(size, self._config.seed, host, num_hosts)

    def eval_batches(self, data: Data, host, num_hosts):
        """Yields the whole validation set once."""
        size = self._config.data.batch_size
        return rows.val_batches(data.val, size, host, num_hosts)

    def test_batches(self, data: Data, host, num_hosts):
        """Yields the test rows once; nothing without test rows."""
        size = self._config.data.batch_size
        if not data.test:
            return iter(())
        return rows.val_batches(data.test, size, host, num_hosts)

    def finalize(self, variables, data, workdir: pathlib.Path):
        """Writes the results on the test rows."""
        metrics = self._config.metrics
        eval_step = jax.jit(
            lambda *given: replicated(evaluate(self, metrics, *given))
        )
        batches = [
            jax.device_get(eval_step(variables, batch))
            for batch in self.test_batches(data, 0, 1)
        ]
        results = metrics_of(self, batches) if batches else {}
        if jax.process_index() == 0:
            text = json.dumps(results, indent=2) + '\n'
            files.write_text(workdir / self.final_file, text)
        return {}
