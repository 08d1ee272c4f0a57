"""One training step and one evaluation step, as pure functions.

B examples a batch, L mixture layers, E experts.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jax import lax
from jaxtyping import Array, Int, Key

from moe.training.config import Config
from moe.training.optimizer import make_optimizer
from moe.training.workload import Task

Metrics = dict[str, Any]


class TrainState(NamedTuple):
    """All that changes from step to step, but the position in the data.

    Attributes:
      step: int32, steps taken.
      params: float32 parameters.
      opt_state: of the optimizer.
      model_state: variables that no gradient moves: of routers, of norms.
      key: PRNG key of the run; a step folds its number in.
    """

    step: Int[Array, '']
    params: Any
    opt_state: Any
    model_state: Any
    key: Key[Array, '']

    @property
    def variables(self) -> dict[str, Any]:
        """What the model is applied to."""
        return {'params': self.params, **self.model_state}


def init_state(
    config: Config,
    key: Key[Array, ''] | None = None,
    task: Task | None = None,
) -> TrainState:
    """The state before the first step.

    Args:
      config: of the run.
      key: PRNG key of the run; None is that of the config's seed.
      task: of the run, which may know its data; None is the config's.
    """
    key = jax.random.key(config.seed) if key is None else key
    task = task or config.make_task()
    variables = task.initial(jax.random.fold_in(key, 0))
    params = variables.pop('params')
    optimizer = make_optimizer(config.optimizer, config.steps, task.parameters)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        model_state=variables,
        key=jax.random.fold_in(key, 1),
    )


def make_train_step(
    config: Config, task: Task | None = None
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """Builds the training step.

    The objective is the sum of the task's terms plus the weighted sum of the
    auxiliary losses, each averaged over the mixture layers. With accumulation
    the batch goes through in equal microbatches and the gradients are averaged,
    which is the large batch's gradient for every term that is a mean over
    tokens; the balance loss, a product of means, is taken per microbatch, as
    is a mean over the labels there are.

    Args:
      config: of the run.
      task: as in `init_state`.

    Returns:
      A pure function of the state and a batch of the task: the next state,
      and the metrics as device arrays.
    """
    task = task or config.make_task()
    optimizer = make_optimizer(config.optimizer, config.steps, task.parameters)
    schedule = config.optimizer.learning_rates(config.steps)
    accumulation = config.optimizer.accumulation

    def gradients(params, model_state, batch, key):
        def objective(params):
            out = task.forward(
                {'params': params, **model_state},
                batch,
                train=True,
                rngs={'router': key},
            )
            means = task.means(out.sums)
            metrics: Metrics = {f'train/{n}': v for n, v in means.items()}
            terms = task.terms(params, means)
            rest = jnp.zeros(())
            if out.aux is not None:
                layers = jax.tree.map(jnp.mean, out.aux.losses)
                for name, value in layers.items():
                    metrics[f'train/{name}'] = value
                    weight = config.losses.get(name, 0.0)
                    # One traced is not 0; 0 * value has a gradient.
                    if isinstance(weight, jax.Array) or weight:
                        rest = rest + weight * value
                metrics['moe'] = out.aux.stats
            metrics['train/objective'] = jnp.sum(terms) + rest
            return (terms, rest), (metrics, out.state)

        (terms, _), pull, (metrics, model_state) = jax.vjp(
            objective, params, has_aux=True
        )
        grads, model_state = task.gradients(pull, terms, model_state, key)
        return (grads, metrics), model_state

    def accumulated(params, model_state, batch, key):
        if accumulation == 1:
            return gradients(params, model_state, batch, key)
        # Strided, so that every device keeps a share of each microbatch.
        micro = jax.tree.map(
            lambda x: rearrange(x, '(b m) ... -> m b ...', m=accumulation),
            batch,
        )

        def one(model_state, i):
            part = jax.tree.map(lambda x: x[i], micro)
            return gradients(
                params, model_state, part, jax.random.fold_in(key, i)
            )

        def add(carry, i):
            total, model_state = carry
            found, model_state = one(model_state, i)
            return (jax.tree.map(jnp.add, total, found), model_state), None

        (total, model_state), _ = lax.scan(
            add, one(model_state, 0), jnp.arange(1, accumulation)
        )
        return jax.tree.map(lambda x: x / accumulation, total), model_state

    def train_step(state, batch):
        key = jax.random.fold_in(state.key, state.step)
        (grads, metrics), model_state = accumulated(
            state.params, state.model_state, batch, key
        )
        updates, opt_state = optimizer.update(
            grads, state.opt_state, state.params
        )
        metrics['train/grad_norm'] = optax.tree.norm(grads)
        for name, value in task.weights(state.params, model_state).items():
            metrics[f'train/weight/{name}'] = value
        metrics['train/learning_rate'] = schedule(state.step)
        if 'moe' in metrics:
            model_state = task.next_state(model_state, metrics['moe'])
        state = state._replace(
            model_state=model_state,
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
        )
        return state, metrics

    return train_step


def make_eval_step(
    config: Config, task: Task | None = None
) -> Callable[[TrainState, Any], Any]:
    """Builds the evaluation step.

    Args:
      config: of the run.
      task: as in `init_state`.

    Returns:
      A pure function of the state and a batch of the task, see
      `Task.evaluate`.
    """
    task = task or config.make_task()

    def eval_step(state, batch):
        return task.evaluate(state.variables, batch)

    return eval_step
