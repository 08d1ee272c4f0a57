"""Training of several tasks at once.

B examples a batch, T tasks, O outputs a task at most, N examples.
"""

import dataclasses
import json
import pathlib
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moe.config import ConfigError, NaturalFloat, PositiveFloat
from moe.parallel import replicated
from moe.training.config import Config
from moe.training.workload import Outcome, Task, state_of
from moe.workloads.multitask import balancing as weighting
from moe.workloads.multitask.data import rows
from moe.workloads.multitask.model import MultiTask as MultiTaskModel
from moe.workloads.multitask.model import MultiTaskConfig, gate_metrics
from moe.workloads.multitask.targets import Regression, Target


@dataclasses.dataclass(frozen=True)
class BalanceConfig:
    """How the tasks' losses become one objective.

    Attributes:
      weights: of the tasks; () for 1 each.
      method: 'static' takes them as they are, 'uncertainty' and 'gradnorm'
        move others beside them, see `moe.workloads.multitask.balancing`.
      gradnorm_alpha: alpha.
      gradnorm_rate: learning rate of its weights.
      pcgrad: whether the gradients of the shared parameters are projected off
        each other where they conflict.
    """

    weights: tuple[NaturalFloat, ...]
    method: Literal['static', 'uncertainty', 'gradnorm']
    gradnorm_alpha: NaturalFloat
    gradnorm_rate: PositiveFloat
    pcgrad: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiTaskRun(Config):
    """A run of several tasks."""

    model: MultiTaskConfig
    balance: BalanceConfig

    @property
    def known_losses(self):
        """The auxiliary losses that there are."""
        return (*super().known_losses, 'l0', 'regularization')

    def check_targets(self, count: int) -> None:
        """Refuses settings that do not fit the number of tasks."""
        weights = self.balance.weights
        if weights and len(weights) != count:
            allowed = f'() or one number for each of {count} tasks'
            raise ConfigError('balance.weights', weights, allowed)


class MultiTask(Task):
    """Several labels an example, each with its own loss and tower.

    Batches are dictionaries of 'numeric' float32 [B, F], 'categorical' int32
    [B, C] where there are any, 'label' float32 [B, T], 'mask' bool [B, T],
    the labels there are, and 'live' bool [B], False for padding.

    Attributes:
      targets: of the tasks, in order.
    """

    unit = 'examples'
    last_file = 'results.json'
    rising = frozenset({'accuracy', 'auc', 'gauc'})
    targets: tuple[Target, ...]

    def __init__(self, config: MultiTaskRun):
        self._config = config
        self.units_per_step = config.data.batch_size

    def build(self, targets: tuple[Target, ...], **sizes: Any) -> None:
        """Makes the model.

        Args:
          targets: of the tasks.
          **sizes: of the inputs, see `MultiTaskConfig.build`.

        Raises:
          ConfigError: for a mixture that does not fit the tasks.
        """
        self.targets = targets
        outputs = max(target.num_outputs for target in targets)
        self._sizes = sizes
        try:
            self._model = self._config.model.build(
                len(targets), outputs, **sizes
            )
            if self._config.balance.method == 'uncertainty':
                self._model = self._model.clone(num_variances=len(targets))
            jax.eval_shape(self.initial, jax.random.key(0))
        except ValueError as error:
            name = self._config.model.mixture.func.__name__
            allowed = f'able to serve these tasks: {error}'
            raise ConfigError('config.model.mixture', name, allowed) from None

    @property
    def model(self) -> MultiTaskModel:
        """The linen module, from `build` on."""
        return self._model

    def initial(self, key):
        """Returns the model's variables, and weights of the tasks that move."""
        batch = {'numeric': jnp.zeros((1, self._sizes['num_numeric']))}
        columns = len(self._sizes.get('table_of', ()))
        batch['categorical'] = jnp.zeros((1, columns), jnp.int32)
        variables = dict(self._model.init(key, batch))
        count, method = len(self.targets), self._config.balance.method
        if method == 'gradnorm':
            start = weighting.GradNorm(jnp.ones(count), jnp.zeros(count))
            variables['gradnorm'] = start._asdict()
        return variables

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
        if self._config.balance.method == 'uncertainty':
            squared = [isinstance(t, Regression) for t in self.targets]
            losses = weighting.uncertainty(
                losses, params['log_variance'], jnp.array(squared)
            )
        weights = self._config.balance.weights
        return losses * jnp.array(weights) if weights else losses

    def gradients(self, pull, terms, state, key):
        """Adds the tasks' gradients up, by GradNorm's weights or projected."""
        balance, count = self._config.balance, len(self.targets)
        if balance.method != 'gradnorm' and not balance.pcgrad:
            return super().gradients(pull, terms, state, key)
        by_task = lambda cotangent: pull((cotangent, jnp.zeros(())))[0]
        stacked = jax.vmap(by_task)(jnp.eye(count))
        (rest,) = pull((jnp.zeros(count), jnp.ones(())))
        # The parameters of single tasks conflict with nobody.
        own = jax.tree.map(lambda p: 'task' in p.axes, self.parameters)
        flags = zip(jax.tree.leaves(own), jax.tree.leaves(stacked), strict=True)
        products = weighting.gram([g for is_own, g in flags if not is_own])
        weights = jnp.ones(count)
        if balance.method == 'gradnorm':
            before = weighting.GradNorm(**state['gradnorm'])
            weights = before.weights
            after = weighting.gradnorm(
                before,
                terms,
                jnp.sqrt(jnp.diag(products)),
                alpha=balance.gradnorm_alpha,
                rate=balance.gradnorm_rate,
            )
            state = {**state, 'gradnorm': after._asdict()}
        mixed = weights
        if balance.pcgrad:
            products = weights[:, None] * products * weights
            mixed = weights * weighting.pcgrad(products, key)
        add = lambda is_own, g, r: (
            r + jnp.tensordot(weights if is_own else mixed, g, 1)
        )
        return jax.tree.map(add, own, stacked, rest), state

    def weights(self, params, state):
        """Returns what moves each task's loss, where that moves itself."""
        method = self._config.balance.method
        if method == 'static':
            return {}
        values = (
            state['gradnorm']['weights']
            if method == 'gradnorm'
            else jnp.exp(-params['log_variance'])
        )
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
        names = [(t.name, t.headline) for t in self.targets]
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

    def val_batches(self, data: Any, host, num_hosts):
        """Yields the whole validation set once."""
        size = self._config.data.batch_size
        return rows.val_batches(data.val, size, host, num_hosts)

    def test_batches(self, data: Any, host: int, num_hosts: int):
        """Yields the rows of the final test once; none without any."""
        return iter(())

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
