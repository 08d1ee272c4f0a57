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
from moe.training.optimizer import make_optimizer, make_schedule
from moe.training.task import Sums, mean_of

Metrics = dict[str, Any]


class TrainState(NamedTuple):
    """All that changes from step to step, but the position in the data.

    Attributes:
      step: int32, steps taken.
      params: float32 parameters.
      opt_state: of the optimizer.
      router_state: variables of the routers that no gradient moves.
      key: PRNG key of the run; a step folds its number in.
    """

    step: Int[Array, '']
    params: Any
    opt_state: Any
    router_state: Any
    key: Key[Array, '']

    @property
    def variables(self) -> dict[str, Any]:
        """What the model is applied to."""
        return {'params': self.params, **self.router_state}


def init_state(config: Config, key: Key[Array, ''] | None = None) -> TrainState:
    """The state before the first step.

    Args:
      config: of the run.
      key: PRNG key of the run; None is that of the config's seed.
    """
    key = jax.random.key(config.seed) if key is None else key
    variables = config.make_task().initial(jax.random.fold_in(key, 0))
    params = variables.pop('params')
    optimizer = make_optimizer(config.optimizer, config.steps)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        router_state=variables,
        key=jax.random.fold_in(key, 1),
    )


def make_train_step(
    config: Config,
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """Builds the training step.

    The objective is the task's mean loss plus the weighted sum of the auxiliary
    losses, each averaged over the mixture layers. With accumulation the batch
    goes through in equal microbatches and the gradients are averaged, which is
    the large batch's gradient for every term that is a mean over tokens; the
    balance loss, a product of means, is taken per microbatch.

    Args:
      config: of the run.

    Returns:
      A pure function of the state and a batch of the task: the next state,
      and the metrics as device arrays.
    """
    task = config.make_task()
    optimizer = make_optimizer(config.optimizer, config.steps)
    schedule = make_schedule(config.optimizer, config.steps)
    accumulation = config.optimizer.accumulation

    def objective(params, router_state, batch, key):
        sums, aux = task.sums(
            {'params': params, **router_state},
            batch,
            train=True,
            rngs={'router': key},
        )
        means = mean_of(sums)
        total = means['loss']
        metrics: Metrics = {f'train/{n}': v for n, v in means.items()}
        if aux is not None:
            layers = jax.tree.map(jnp.mean, aux.losses)
            for name, value in layers.items():
                metrics[f'train/{name}'] = value
                total = total + config.losses.get(name, 0.0) * value
            metrics['moe'] = aux.stats
        metrics['train/objective'] = total
        return total, metrics

    def gradients(state, batch, key):
        gradient = jax.value_and_grad(objective, has_aux=True)
        if accumulation == 1:
            (_, metrics), grads = gradient(
                state.params, state.router_state, batch, key
            )
            return grads, metrics
        # Strided, so that every device keeps a share of each microbatch.
        micro = jax.tree.map(
            lambda x: rearrange(x, '(b m) ... -> m b ...', m=accumulation),
            batch,
        )

        def one(i):
            (_, metrics), grads = gradient(
                state.params,
                state.router_state,
                jax.tree.map(lambda x: x[i], micro),
                jax.random.fold_in(key, i),
            )
            return grads, metrics

        def add(total, i):
            return jax.tree.map(jnp.add, total, one(i)), None

        total, _ = lax.scan(add, one(0), jnp.arange(1, accumulation))
        return jax.tree.map(lambda x: x / accumulation, total)

    def train_step(state, batch):
        key = jax.random.fold_in(state.key, state.step)
        grads, metrics = gradients(state, batch, key)
        updates, opt_state = optimizer.update(
            grads, state.opt_state, state.params
        )
        metrics['train/grad_norm'] = optax.tree.norm(grads)
        metrics['train/learning_rate'] = schedule(state.step)
        router_state = state.router_state
        if 'moe' in metrics:
            router_state = config.model.moe.next_router_state(
                router_state, metrics['moe']
            )
        state = state._replace(
            router_state=router_state,
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
        )
        return state, metrics

    return train_step


def make_eval_step(config: Config) -> Callable[[TrainState, Any], Sums]:
    """Builds the evaluation step.

    Args:
      config: of the run.

    Returns:
      A pure function of the state and a batch of the task: its `sums`.
    """
    task = config.make_task()

    def eval_step(state, batch):
        return task.sums(state.variables, batch)[0]

    return eval_step


def layer_metrics(config: Config, stats: Any) -> dict[str, Any]:
    """Names each mixture layer's statistics `moe/layer_i/...`.

    Args:
      config: of the run.
      stats: statistics stacked over the mixture layers, arrays [L] and, for
        the load, [L, E].

    Returns:
      The statistics by name, floats and, for the load, lists.
    """
    return {
        f'moe/layer_{layer}/{name}': values[i].tolist()
        for i, layer in enumerate(config.model.moe_layers)
        for name, values in stats.items()
    }
