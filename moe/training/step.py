"""One training step and one evaluation step, as pure functions.

B examples a batch, L mixture layers, E experts.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, Key

from moe.parallel import compiler_options
from moe.parameters import parts
from moe.routing import update_router_state
from moe.training.average import moved
from moe.training.config import Config
from moe.training.divergence import Guard, init_guard, judge
from moe.training.evaluation import evaluate
from moe.training.gradient import make_gradient
from moe.training.norms import named, squares
from moe.training.optimizer import make_optimizer
from moe.training.workload import Workload

Metrics = dict[str, Any]


class TrainState(NamedTuple):
    """The state of a run, except for its position in the data.

    Attributes:
      step: int32, number of steps taken.
      params: float32 parameters.
      opt_state: state of the optimizer.
      model_state: variables without gradient: router states, batch statistics.
      key: PRNG key of the run; each step folds its number in.
      guard: what decides whether an update is made.
      average: moving average of the parameters; None without one.
    """

    step: Int[Array, '']
    params: Any
    opt_state: Any
    model_state: Any
    key: Key[Array, '']
    guard: Guard
    average: Any = None

    @property
    def variables(self) -> dict[str, Any]:
        """Returns the variables to evaluate: averaged parameters, and state."""
        params = self.params if self.average is None else self.average
        return {'params': params, **self.model_state}


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
        guard=init_guard(),
        average=jax.tree.map(jnp.copy, params) if config.average else None,
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
    gradient = make_gradient(config, workload)
    where = parts(workload.parameters)

    def train_step(state, batch):
        key = jax.random.fold_in(state.key, state.step)
        # Gradient of the objective, of sums over all microbatches.
        grads, metrics, statistics, model_state = gradient(
            state.params, state.model_state, batch, key
        )
        metrics |= named('train/grad_norm', squares(grads, where))
        norm = metrics['train/grad_norm']
        metrics |= named('train/param_norm', squares(state.params, where))
        metrics |= workload.step_metrics(state.params, model_state)
        # Update of the parameters by the optimizer.
        updates, opt_state = optimizer.update(
            grads, state.opt_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        metrics['train/learning_rate'] = schedule(state.guard.updates)
        # Update of the router states by their statistics.
        if statistics:
            routers = update_router_state(
                model_state['router_state'], statistics
            )
            model_state = {**model_state, 'router_state': routers}
        # All of it, or nothing. A select is part of the loops that write the
        # new values; a conditional would copy the state.
        made, guard = judge(
            state.guard,
            metrics['train/objective'],
            norm,
            skip_above=config.optimizer.skip_above,
            max_skipped=config.divergence.max_skipped,
        )
        old = (state.params, state.opt_state, state.model_state)
        params, opt_state, model_state = jax.tree.map(
            lambda new, old: jnp.where(made, new, old),
            (params, opt_state, model_state),
            old,
        )
        metrics['train/skipped'] = guard.skipped
        metrics['train/skipped_in_a_row'] = guard.in_a_row
        average = state.average
        if config.average:
            new = moved(config.average, average, params, guard.updates)
            keep = lambda new, old: jnp.where(made, new, old)
            average = jax.tree.map(keep, new, average)
        state = TrainState(
            state.step + 1,
            params,
            opt_state,
            model_state,
            state.key,
            guard,
            average,
        )
        return state, metrics

    return train_step


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
        compiler_options=compiler_options(mesh),
    )
