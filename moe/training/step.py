"""One training step and one evaluation step, as pure functions.

B sequences a batch, S targets a sequence, W = S + 1 bytes of it, V vocabulary,
L mixture layers, E experts.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from moe.models import LM
from moe.training.config import Config
from moe.training.optimizer import make_optimizer, make_schedule
from moe.types import Aux

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


def init_state(config: Config) -> TrainState:
    """The state before the first step, a function of the config alone."""
    key = jax.random.key(config.seed)
    tokens = jnp.zeros((1, config.data.seq_len), jnp.int32)
    variables = dict(LM(config.model).init(jax.random.fold_in(key, 0), tokens))
    params = variables.pop('params')
    optimizer = make_optimizer(config.optimizer, config.steps)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        router_state=variables,
        key=jax.random.fold_in(key, 1),
    )


def token_losses(
    logits: Float[Array, 'B S V'], targets: Int[Array, 'B S']
) -> Float[Array, 'B S']:
    """Cross-entropy of each target in nats, float32."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def make_train_step(
    config: Config,
) -> Callable[[TrainState, UInt8[Array, 'B W']], tuple[TrainState, Metrics]]:
    """Builds the training step.

    The objective is the mean token loss plus the weighted sum of the auxiliary
    losses, each averaged over the mixture layers. With accumulation the batch
    goes through in equal microbatches and the gradients are averaged, which is
    the large batch's gradient for every term that is a mean over tokens; the
    balance loss, a product of means, is taken per microbatch.

    Args:
      config: of the run.

    Returns:
      A pure function of the state and a batch of bytes: the next state, and
      the metrics as device arrays.
    """
    model = LM(config.model)
    optimizer = make_optimizer(config.optimizer, config.steps)
    schedule = make_schedule(config.optimizer, config.steps)
    accumulation = config.optimizer.accumulation

    def objective(params, router_state, tokens, key):
        logits, _, aux = model.apply(
            {'params': params, **router_state},
            tokens[:, :-1],
            train=True,
            rngs={'router': key},
        )
        loss = jnp.mean(token_losses(logits, tokens[:, 1:]))
        total = loss
        metrics = {'train/loss': loss}
        if aux is not None:
            means = jax.tree.map(jnp.mean, aux.losses)
            for name, value in means.items():
                metrics[f'train/{name}'] = value
                total = total + config.losses.get(name, 0.0) * value
            metrics['moe'] = aux.stats
        metrics['train/objective'] = total
        return total, metrics

    def gradients(state, tokens, key):
        gradient = jax.value_and_grad(objective, has_aux=True)
        if accumulation == 1:
            (_, metrics), grads = gradient(
                state.params, state.router_state, tokens, key
            )
            return grads, metrics
        # Strided, so that every device keeps a share of each microbatch.
        micro = rearrange(tokens, '(b m) s -> m b s', m=accumulation)

        def one(i):
            (_, metrics), grads = gradient(
                state.params,
                state.router_state,
                micro[i],
                jax.random.fold_in(key, i),
            )
            return grads, metrics

        def add(total, i):
            return jax.tree.map(jnp.add, total, one(i)), None

        total, _ = lax.scan(add, one(0), jnp.arange(1, accumulation))
        return jax.tree.map(lambda x: x / accumulation, total)

    def train_step(state, tokens):
        tokens = tokens.astype(jnp.int32)
        key = jax.random.fold_in(state.key, state.step)
        grads, metrics = gradients(state, tokens, key)
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


def make_eval_step(
    config: Config,
) -> Callable[..., tuple[Float[Array, ''], Float[Array, '']]]:
    """Builds the evaluation step.

    Args:
      config: of the run.

    Returns:
      A pure function of the state, bytes [B, W] and the mask [B, S] of
      live targets: the summed loss in nats, and the number of live targets.
    """
    model = LM(config.model)

    def eval_step(
        state: TrainState,
        tokens: UInt8[Array, 'B W'],
        mask: Bool[Array, 'B S'],
    ):
        tokens = tokens.astype(jnp.int32)
        logits, _, _ = model.apply(
            {'params': state.params, **state.router_state},
            tokens[:, :-1],
            mask=mask,
        )
        losses = token_losses(logits, tokens[:, 1:])
        total = jnp.sum(jnp.where(mask, losses, 0.0))
        return total, jnp.sum(mask.astype(jnp.float32))

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


def recorded_routing(config: Config, state: TrainState, tokens) -> Aux:
    """The Aux, Routing included, of an evaluation on tokens [B, S]."""
    _, _, aux = LM(config.model).apply(
        {'params': state.params, **state.router_state}, tokens, record=True
    )
    return aux
