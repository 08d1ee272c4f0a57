"""Noisy top-k gating, and a dispatcher for experts of your own.

The gates of arXiv 1701.06538: the softmax of the k greatest of noisy logits,
0 elsewhere. A `SparseDispatcher` brings each expert the rows whose gate is not
0 and sums what comes back, weighted. It is used twice here:

* outside of jit, with one array of rows for each expert, so that the experts
  can be any functions;
* inside jit, where shapes are static: all rows sorted by expert, and how many
  each expert has, which experts like `MLP` take as they are.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from moe.dispatch import SparseDispatcher
from moe.experts import MLP
from moe.layers import LOSSES, Gate, summarize
from moe.routing import noisy_top_k
from moe.types import Context

E, K = 4, 2


class Mixture(nn.Module):
    """Noisy top-k gating, the dispatcher, and E experts."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        """Returns outputs [B, D], gates [B, E] and the balance loss."""
        position = jnp.arange(len(x))[None]  # the noise is a function of it
        mask = jnp.ones_like(position, bool)
        key = self.make_rng('router') if train else None
        context = Context(mask, position, key=key, train=train)
        router = functools.partial(noisy_top_k, k=K)
        routing, _ = Gate(E, router)(x[None], context)
        summary = summarize(routing)
        gates = summary.gates[0]

        dispatcher = SparseDispatcher(gates, k=K)
        rows = dispatcher.dispatch(x)
        outputs = MLP(32, E, 'relu', name='experts')(rows, dispatcher.sizes)
        y = dispatcher.combine(outputs)
        balance = (
            LOSSES[name](summary).value for name in ('importance', 'load')
        )
        return y, gates, sum(balance)


def with_functions(gates, x, functions):
    """The same combination of any functions, one an expert, outside of jit."""
    dispatcher = SparseDispatcher(gates)
    parts = dispatcher.split(dispatcher.dispatch(x))  # [n_e, D] for expert e
    weights = dispatcher.split(dispatcher.expert_to_gates())
    for e, (part, weight) in enumerate(zip(parts, weights, strict=True)):
        print(f'expert {e}: {len(part)} rows, mean gate {weight.mean():.2f}')
    outputs = [f(part) for f, part in zip(functions, parts, strict=True)]
    return dispatcher.combine(outputs)  # or jnp.concatenate(outputs)


def main(steps: int = 200) -> dict[str, float]:
    """Trains, compares both ways, and returns losses and the difference."""
    x = jax.random.normal(jax.random.key(0), (256, 8))
    target = jnp.where(x[:, :1] > 0, jnp.roll(x, 1, axis=1), -x)
    model = Mixture()
    variables = jax.jit(model.init)(jax.random.key(1), x)
    optimizer = optax.adam(0.01)
    state = optimizer.init(variables)

    @jax.jit
    def step(variables, state, key):
        def objective(variables):
            y, _, balance = model.apply(
                variables, x, train=True, rngs={'router': key}
            )
            error = jnp.mean((y - target) ** 2)
            return error + 1e-2 * balance, error

        gradients, error = jax.grad(objective, has_aux=True)(variables)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(variables, updates), state, error

    errors = []
    for i in range(steps):
        key = jax.random.fold_in(jax.random.key(2), i)
        variables, state, error = step(variables, state, key)
        errors.append(float(error))
    print(f'error {errors[0]:.3f} -> {errors[-1]:.3f}')

    y, gates, _ = model.apply(variables, x)
    w = variables['params']['experts']
    functions = [
        lambda rows, e=e: nn.relu(rows @ w['up'][e]) @ w['down'][e]
        for e in range(E)
    ]
    apart = with_functions(gates, x, functions)
    difference = float(jnp.max(jnp.abs(apart - y)))
    return {'first': errors[0], 'last': errors[-1], 'difference': difference}


if __name__ == '__main__':
    main()
