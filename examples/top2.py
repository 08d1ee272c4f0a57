"""Top-2 mixtures of one level and of two, each made in one call.

Every token goes to its best expert, and at random to its second best, in
proportion to its gate; an expert has room for some of a sequence's tokens. In
the two-level form a first router chooses among groups of experts, and a router
of each group among its own. Source: GShard, arXiv 2006.16668.

The task: each token of a sequence belongs to one of four kinds, and each kind
asks for another function of it.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from moe.layers import hierarchical_top2_moe, top2_moe

DIM = 16


class Bilinear(nn.Module):
    """An expert of one's own: the product of two linear functions."""

    @nn.compact
    def __call__(self, rows):
        """Applies the expert to rows [N, D]."""
        hidden = nn.Dense(32)(rows) * nn.Dense(32)(rows)
        return nn.Dense(rows.shape[-1])(hidden)


LAYERS = {
    'one level': top2_moe(DIM, 8, hidden=32),
    'any activation function': top2_moe(DIM, 8, 32, activation=jnp.sin),
    'other experts': top2_moe(DIM, 8, experts=Bilinear()),
    'two levels': hierarchical_top2_moe(DIM, (4, 2), hidden=32),
}


def data(key):
    """Returns tokens [B, S, D] and their targets."""
    x = jax.random.normal(key, (4, 32, DIM))
    kind = jnp.argmax(x[..., :4], axis=-1)[..., None]
    functions = [x, -x, jnp.roll(x, 1, axis=-1), jnp.abs(x)]
    return x, jnp.select([kind == i for i in range(4)], functions)


def train(layer: nn.Module, steps: int) -> list[float]:
    """Returns the errors of a layer while it is trained."""
    x, _ = data(jax.random.key(0))
    rngs = {'params': jax.random.key(1), 'router': jax.random.key(2)}
    params = jax.jit(layer.init)(rngs, x)
    optimizer = optax.adam(0.01)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, key):
        x, target = data(key)

        def objective(params):
            rngs = {'router': key}
            y, aux = layer.apply(params, x, train=True, rngs=rngs)
            error = jnp.mean((y - target) ** 2)
            return error + 1e-2 * aux.losses['load_balance'], error

        gradients, error = jax.grad(objective, has_aux=True)(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, error

    errors = []
    for i in range(steps):
        params, state, error = step(params, state, jax.random.key(i))
        errors.append(float(error))
    return errors


def main(steps: int = 200) -> dict[str, list[float]]:
    """Trains all layers, and returns the errors of each."""
    errors = {}
    for name, layer in LAYERS.items():
        errors[name] = train(layer, steps)
        print(f'{name}: {errors[name][0]:.3f} -> {errors[name][-1]:.3f}')
    return errors


if __name__ == '__main__':
    main()
