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
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, Key

from moe.routing import update_router_state
from moe.training.config import Config
from moe.training.evaluation import evaluate
from moe.training.optimizer import make_optimizer
from moe.training.workload import Objective, Workload

Metrics = dict[str, Any]


class TrainState(NamedTuple):
    """The state of a run, except for its position in the data.

    Attributes:
      step: int32, number of steps taken.
      params: float32 parameters.
      opt_state: state of the optimizer.
      model_state: variables without gradient: router states, batch statistics.
      key: PRNG key of the run; each step folds its number in.
    """

    step: Int[Array, '']
    params: Any
    opt_state: Any
    model_state: Any
    key: Key[Array, '']

    @property
    def variables(self) -> dict[str, Any]:
        """Returns the model's variables, parameters and state."""
        return {'params': self.params, **self.model_state}


def init_state(
    config: Config,
    key: Key[Array, ''] | None = None,
    workload: Workload | None = None,
) -> TrainState:
    """Returns the state before the first step.

    Args:
      config: config of the run.
      key: PRNG key of the run; None is that of the config's seed.
      workload: workload of the run; None makes the config's.
    """
    key = jax.random.key(config.seed) if key is None else key
    workload = workload or config.make_workload()
    variables = workload.init(jax.random.fold_in(key, 0))
    params = variables.pop('params')
    optimizer = make_optimizer(
        config.optimizer, config.steps, workload.parameters
    )
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        model_state=variables,
        key=jax.random.fold_in(key, 1),
    )


def make_train_step(
    config: Config, workload: Workload | None = None
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """Returns the training step, a pure function.

    Args:
      config: config of the run.
      workload: workload of the run; None makes the config's.

    Returns:
      A pure function of the state and a batch of the workload: the next
      state, and the metrics as device arrays.
    """
    workload = workload or config.make_workload()
    optimizer = make_optimizer(
        config.optimizer, config.steps, workload.parameters
    )
    schedule = config.optimizer.learning_rates(config.steps)
    value_and_grad = workload.value_and_grad(make_objective(config, workload))
    accumulation = config.optimizer.accumulation

    def train_step(state, batch):
        key = jax.random.fold_in(state.key, state.step)
        # Gradient of the objective, accumulated over microbatches.
        grads, metrics, statistics, model_state = accumulated(
            value_and_grad, accumulation, state, batch, key
        )
        metrics['train/grad_norm'] = optax.tree.norm(grads)
        metrics |= workload.step_metrics(state.params, model_state)
        # Update of the parameters by the optimizer.
        updates, opt_state = optimizer.update(
            grads, state.opt_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        metrics['train/learning_rate'] = schedule(state.step)
        # Update of the router states by their statistics.
        if statistics:
            routers = update_router_state(
                model_state['router_state'], statistics
            )
            model_state = {**model_state, 'router_state': routers}
        state = state._replace(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            model_state=model_state,
        )
        return state, metrics

    return train_step


def make_objective(
    config: Config, workload: Workload
) -> Callable[..., tuple[Array, Objective]]:
    """Returns the objective, the scalar that training minimises.

    The sum of the workload's losses, as it weighs them, plus the auxiliary
    losses, each averaged over the mixture layers and times its coefficient.

    Args:
      config: config of the run, with the coefficients.
      workload: workload of the run.

    Returns:
      A function of (params, model_state, batch, key): the objective, a
      scalar, and its parts.
    """

    def objective(params, model_state, batch, key):
        variables = {'params': params, **model_state}
        out = workload.forward(
            variables, batch, train=True, rngs={'router': key}
        )
        means = {name: mean.value for name, mean in out.means.items()}
        is_loss = lambda name: name.partition('/')[0] == 'loss'
        losses = {n: v for n, v in means.items() if is_loss(n)}
        terms = workload.weigh_losses(losses, params)
        metrics = {f'train/{name}': value for name, value in means.items()}
        metrics['train/loss'] = sum(losses.values())
        auxiliary, statistics = jnp.zeros(()), {}
        if out.aux is not None:
            for name, by_layer in out.aux.losses.items():
                value = metrics[f'train/{name}'] = jnp.mean(by_layer)
                weight = config.losses.get(name, 0.0)
                # A traced one is not 0; and 0 * value would have a gradient.
                if isinstance(weight, jax.Array) or weight:
                    auxiliary += weight * value
            metrics['moe'] = out.aux.stats
            statistics = out.aux.state_statistics
        total = sum(terms.values()) + auxiliary
        metrics['train/objective'] = total
        return total, Objective(
            terms, auxiliary, metrics, statistics, out.model_state
        )

    return objective


def accumulated(
    value_and_grad: Callable[..., tuple[tuple[Any, Objective], Any]],
    count: int,
    state: TrainState,
    batch: Any,
    key: Key[Array, ''],
) -> tuple[Any, Metrics, dict[str, Any], dict[str, Any]]:
    """Averages gradients and metrics over equal parts of a batch.

    It equals the gradient of the whole batch for terms that are means over
    equally many examples in each part. The balance loss, a product of means,
    and means over existing labels are taken for each part.

    Args:
      value_and_grad: the objective's value and gradient.
      count: number of parts, a divisor of B.
      state: the state before the step.
      batch: a batch of B examples.
      key: PRNG key of the step.

    Returns:
      The gradient, the metrics, the statistics of the routers' states summed
      over the parts, and the model's state after the last part.
    """

    def one(model_state, batch, key):
        (_, out), grads = value_and_grad(state.params, model_state, batch, key)
        means = (grads, out.metrics)
        return means, out.state_statistics, out.model_state

    if count == 1:
        means, sums, model_state = one(state.model_state, batch, key)
        return *means, sums, model_state
    # Strided, so that every device keeps a share of each part.
    split = lambda x: rearrange(x, '(b m) ... -> m b ...', m=count)
    parts = jax.tree.map(split, batch)

    def part(model_state, i):
        rows = jax.tree.map(lambda x: x[i], parts)
        return one(model_state, rows, jax.random.fold_in(key, i))

    def add(carry, i):
        *total, model_state = carry
        *found, model_state = part(model_state, i)
        return (*jax.tree.map(jnp.add, total, found), model_state), None

    (total, sums, model_state), _ = lax.scan(
        add, part(state.model_state, 0), jnp.arange(1, count)
    )
    means = jax.tree.map(lambda x: x / count, total)
    return *means, sums, model_state


def make_eval_step(
    config: Config, workload: Workload | None = None
) -> Callable[[TrainState, Any], Any]:
    """Returns the evaluation step.

    Args:
      config: config of the run.
      workload: workload of the run; None makes the config's.

    Returns:
      A pure function of the state and a batch of the workload, see
      `moe.training.evaluation.evaluate`.
    """
    workload = workload or config.make_workload()

    def eval_step(state, batch):
        return evaluate(workload, config.metrics, state.variables, batch)

    return eval_step


def jit_train_step(
    mesh: Mesh, config: Config, workload: Workload, shardings: Any
) -> Any:
    """Returns the jitted train step of runs and of plans.

    Args:
      mesh: the device mesh.
      config: config of the run.
      workload: workload of the run.
      shardings: shardings of the train state, whose buffers are donated.

    Returns:
      The jitted step; its metrics are replicated on every device.
    """
    return jax.jit(
        make_train_step(config, workload),
        donate_argnums=0,
        out_shardings=(shardings, NamedSharding(mesh, P())),
    )
