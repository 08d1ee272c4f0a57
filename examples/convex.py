"""Three parallel networks, added up with weights that sum to 1.

`y = w_1 net_1(x_1) + w_2 net_2(x_2) + w_3 net_3(x_3)`, where w is a softmax of
three learned numbers: positive, and of sum 1 at every step. Each network has
its own input. Only the third input has to do with the target, and the weights
come to say so.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from moe.layers import ConvexCombination


def network() -> nn.Module:
    """Returns one of the parallel networks, from [B, 20] to [B, 10]."""
    return nn.Sequential([nn.Dense(32), nn.relu, nn.Dense(10)])


def main(steps: int = 300) -> dict:
    """Trains, and returns the losses and the weights at every step."""
    inputs = jax.random.uniform(jax.random.key(0), (3, 256, 20))
    target = jnp.sin(3 * inputs[2, :, :10])

    # Any number of networks, of any kind, with outputs of one shape.
    layer = ConvexCombination((network(), network(), network()))
    params = jax.jit(layer.init)(jax.random.key(1), tuple(inputs))
    optimizer = optax.adam(0.01)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        def objective(params):
            y, aux = layer.apply(params, tuple(inputs))
            return jnp.mean((y - target) ** 2), aux.stats['weights']

        value_and_grad = jax.value_and_grad(objective, has_aux=True)
        (loss, weights), gradients = value_and_grad(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, loss, weights

    losses, history = [], []
    for i in range(steps):
        params, state, loss, weights = step(params, state)
        losses.append(float(loss))
        history.append(weights)
        if i % 100 == 0 or i == steps - 1:
            line = ' '.join(f'{w:.3f}' for w in weights)
            print(f'step {i:3d}  loss {loss:.4f}  weights {line}')
    return {'losses': losses, 'weights': jnp.stack(history)}


if __name__ == '__main__':
    main()
