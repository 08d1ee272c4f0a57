"""Training of several tasks at once.

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

from moe.config import ConfigError, NaturalFloat, OneOf, PositiveInt
from moe.parallel import replicated
from moe.training.config import Config
from moe.training.workload import Outcome, Task, state_of
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
    """Rows of features and labels, and how many a step takes.

    Attributes:
      source: where the rows come from.
      batch_size: rows a step, over all hosts.
    """

    source: Annotated[Source, OneOf(SOURCES)] = field(
        default_factory=SyntheticSource
    )
    batch_size: PositiveInt = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiTaskRun(Config):
    """A run of several tasks.

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
        """The auxiliary losses that there are."""
        return (*super().known_losses, 'l0', 'regularization')

    def make_task(self) -> 'MultiTask':
        """Returns the workload that this describes."""
        return MultiTask(self)


class MultiTask(Task):
    """Several labels an example, each with its own loss and tower.

    Batches are dictionaries of 'numeric' float32 [B, F], 'categorical' int32
    [B, C] where there are any, 'label' float32 [B, T], 'mask' bool [B, T],
    the labels there are, and 'live' bool [B], False for padding.

    Attributes:
      targets: the targets of the tasks, in order. They are known, and the
        model is made, from the start on where the source tells them without
        its rows, and else from `load` or `restored` on.
    """

    unit = 'examples'
    last_file = 'results.json'
    rising = frozenset({'accuracy', 'auc', 'gauc'})
    targets: tuple[Target, ...]

    def __init__(self, config: MultiTaskRun):
        self._config = config
        self.units_per_step = config.data.batch_size
        inputs = config.data.source.inputs()
        if inputs is not None:
            self.build(inputs)

    def build(self, inputs: Inputs) -> None:
        """Makes the model.

        Args:
          inputs: what it is made for.

        Raises:
          ConfigError: for a mixture that does not fit the tasks.
        """
        self.targets, self._inputs = inputs.targets, inputs
        outputs = max(target.num_outputs for target in self.targets)
        model = self._config.model
        try:
            self._model = model.build(
                len(self.targets),
                outputs,
                tables=inputs.tables,
                table_of=inputs.table_of,
                learned=self._config.balance.learned,
            )
            jax.eval_shape(self.initial, jax.random.key(0))
        except ConfigError:
            raise
        except ValueError as error:
            name = MIXTURES.name_of(model.mixture)
            allowed = f'able to serve these tasks: {error}'
            raise ConfigError('config.model.mixture', name, allowed) from None

    @property
    def model(self) -> MultiTaskModel:
        """The linen module, from `build` on."""
        return self._model

    def load(self):
        """Reads the rows, and makes the model that fits them."""
        data = self._config.data.source.load(self._config.data.batch_size)
        self.build(data.inputs)
        return data

    def keep(self, data: Data, workdir: pathlib.Path):
        """Writes what was learned of the training rows."""
        data.save(workdir)

    def restored(self, workdir: pathlib.Path):
        """Returns the task with what was learned in a run."""
        self.build(self._config.data.source.restore(workdir))
        return self

    def describe(self, data: Data):
        """Returns sizes and the fingerprint of the rows."""
        return data.sizes()

    def announce(self, data: Data):
        """Returns the sizes in words."""
        return data.summary()

    def initial(self, key):
        """Returns the model's variables, and weights of the tasks that move."""
        batch = {'numeric': jnp.zeros((1, self._inputs.num_numeric))}
        columns = len(self._inputs.table_of)
        batch['categorical'] = jnp.zeros((1, columns), jnp.int32)
        variables = dict(self._model.init(key, batch))
        return variables | self._config.balance.state(len(self.targets))

    def forward(self, variables, batch, **options):
        """Sums each task's loss over its labels; see Task."""
        state = state_of(variables)
        (logits, aux), moved = self._model.apply(
            variables,
            batch,
            mutable=['batch_stats'] if options.get('train') else [],
            **options,
        )
        mask = batch['mask'] & batch['live'][:, None]
        label = jnp.where(mask, batch['label'], 0.0)
        losses = jnp.where(mask, self.losses(logits, label), 0.0)
        sums = {}
        for i, target in enumerate(self.targets):
            sums[f'loss/{target.name}'] = jnp.sum(losses[:, i])
            sums[f'count/{target.name}'] = jnp.sum(mask[:, i], dtype=float)
        return Outcome(sums, aux, {**state, **moved})

    def losses(
        self, logits: Float[Array, 'B T O'], label: Float[Array, 'B T']
    ) -> Float[Array, 'B T']:
        """Cross-entropies in nats and squared errors, float32."""
        found = [
            target.loss(logits[:, i, : target.num_outputs], label[:, i])
            for i, target in enumerate(self.targets)
        ]
        return jnp.stack(found, axis=1)

    def means(self, sums):
        """Returns each task's mean loss over its labels, and their sum."""
        names = [f'loss/{target.name}' for target in self.targets]
        count = lambda name: sums[name.replace('loss/', 'count/', 1)]
        means = {n: sums[n] / jnp.maximum(count(n), 1.0) for n in names}
        return {'loss': sum(means.values()), **means}

    def terms(self, params, means):
        """Returns the tasks' weighted losses."""
        losses = jnp.stack([means[f'loss/{t.name}'] for t in self.targets])
        squared = jnp.array([target.squared for target in self.targets])
        return self._config.balance.terms(losses, params, squared)

    def gradients(self, pull, terms, state, key):
        """Adds the tasks' gradients up, weighted or projected."""
        balance, count = self._config.balance, len(self.targets)
        if not balance.by_task:
            return super().gradients(pull, terms, state, key)
        by_task = lambda cotangent: pull((cotangent, jnp.zeros(())))[0]
        stacked = jax.vmap(by_task)(jnp.eye(count))
        (rest,) = pull((jnp.zeros(count), jnp.ones(())))
        # The parameters of single tasks conflict with nobody.
        own = jax.tree.map(lambda p: 'task' in p.axes, self.parameters)
        flags = zip(jax.tree.leaves(own), jax.tree.leaves(stacked), strict=True)
        products = gram([g for is_own, g in flags if not is_own])
        weights, state = balance.step(state, terms, products)
        mixed = weights
        if balance.pcgrad:
            products = weights[:, None] * products * weights
            mixed = weights * pcgrad(products, key)
        add = lambda is_own, g, r: (
            r + jnp.tensordot(weights if is_own else mixed, g, 1)
        )
        return jax.tree.map(add, own, stacked, rest), state

    def weights(self, params, state):
        """Returns what moves each task's loss, where that moves itself."""
        values = self._config.balance.moving_weights(params, state)
        if values is None:
            return {}
        return {t.name: values[i] for i, t in enumerate(self.targets)}

    def layer_metrics(self, stats):
        """Names the statistics by gate, `moe/GATE/STATISTIC`."""
        names = [target.name for target in self.targets]
        return gate_metrics(stats, names)

    def count_parameters(self):
        """Returns how many there are, all of them active."""
        total = sum(p.size for p in jax.tree.leaves(self.parameters))
        return total, total

    def evaluate(self, variables, batch):
        """Returns the rows themselves with their logits."""
        logits, _ = self._model.apply(variables, batch)
        kept = {
            k: batch[k] for k in ('label', 'mask', 'live', 'user') if k in batch
        }
        return {'logits': logits, **kept}

    def results(self, batches):
        """Returns the sum of the tasks' mean losses, and metrics by task."""
        whole = {
            name: np.concatenate([b[name] for b in batches])
            for name in batches[0]
        }
        live = whole.pop('live')
        whole = {name: values[live] for name, values in whole.items()}
        found: dict[str, float] = {}
        for i, target in enumerate(self.targets):
            metrics = target.metrics(
                whole['logits'][:, i, : target.num_outputs],
                whole['label'][:, i],
                whole['mask'][:, i],
                whole.get('user'),
            )
            found |= {f'{target.name}/{k}': v for k, v in metrics.items()}
        losses = [
            found.get(f'{t.name}/{t.loss_name}', 0.0) for t in self.targets
        ]
        return {'loss': sum(losses), **found}

    def headline(self, results):
        """Returns one metric of each task."""
        names = [(t.name, t.primary_metric) for t in self.targets]
        return 'validation ' + ', '.join(
            f'{task} {metric} {results[f"{task}/{metric}"]:.4f}'
            for task, metric in names
            if f'{task}/{metric}' in results
        )

    def predictions(
        self, logits: Float[np.ndarray, 'N T O']
    ) -> dict[str, list[Any]]:
        """Returns columns of what is predicted, by name."""
        columns: dict[str, list[Any]] = {}
        for i, target in enumerate(self.targets):
            columns |= target.predictions(logits[:, i, : target.num_outputs])
        return columns

    def train_batches(self, data: Data, host, num_hosts):
        """Returns the endless iterator of the source's rows."""
        size = self._config.data.batch_size
        return data.train_batches(size, self._config.seed, host, num_hosts)

    def val_batches(self, data: Data, host, num_hosts):
        """Yields the whole validation set once."""
        size = self._config.data.batch_size
        return rows.val_batches(data.val, size, host, num_hosts)

    def test_batches(self, data: Data, host, num_hosts):
        """Yields the rows of the final test once; none without any."""
        size = self._config.data.batch_size
        if not data.test:
            return iter(())
        return rows.val_batches(data.test, size, host, num_hosts)

    def leave(self, variables, data, workdir: pathlib.Path):
        """Writes the results on the test rows."""
        evaluate = jax.jit(lambda *of: replicated(self.evaluate(*of)))
        batches = [
            jax.device_get(evaluate(variables, batch))
            for batch in self.test_batches(data, 0, 1)
        ]
        results = self.results(batches) if batches else {}
        if jax.process_index() == 0:
            text = json.dumps(results, indent=2) + '\n'
            (workdir / self.last_file).write_text(text)
        return {}
