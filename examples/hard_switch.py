"""Hard switching between two experts that are not alike.

Expert A adds a vector, expert B multiplies by one. A gate sends each example
to one of them, and the other does not run on it. The loss is a custom one: it
is written from the separate outputs of the experts and their masks, and here
weighs both experts equally, however many examples each of them received.

The data is made so that B is right where the first feature is above 1/2. The
auxiliary balance loss keeps the gate from settling on one expert early.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from moe.layers import HardSwitch, by_expert

WIDTH = 8


class Add(nn.Module):
    """Expert A: `x + w`."""

    @nn.compact
    def __call__(self, x):
        """Applies the expert to rows [N, D]."""
        return x + self.param('w', nn.initializers.zeros, x.shape[1:])


class Multiply(nn.Module):
    """Expert B: `x * w`."""

    @nn.compact
    def __call__(self, x):
        """Applies the expert to rows [N, D]."""
        return x * self.param('w', nn.initializers.zeros, x.shape[1:])


def custom_loss(outputs, masks, target):
    """Returns the mean over the experts of each one's own squared error.

    Args:
      outputs: of each expert [E, B, D], 0 in the rows of the others.
      masks: which expert ran on which example, [E, B].
      target: [B, D].
    """
    errors = jnp.mean((outputs - target) ** 2, axis=-1)
    count = jnp.maximum(jnp.sum(masks, axis=-1), 1)
    return jnp.mean(jnp.sum(errors * masks, axis=-1) / count)


def main(steps: int = 400) -> dict[str, float]:
    """Trains, and returns the first and last loss and who went right."""
    x = jax.random.uniform(jax.random.key(0), (512, WIDTH))
    second = x[:, 0] > 0.5
    target = jnp.where(second[:, None], -x, x + 1)

    # The gate learns from the outputs as if they were scaled by its
    # probability; with gradient='none' it would stay as it is.
    layer = HardSwitch((Add(), Multiply()), gradient='straight_through')
    params = jax.jit(layer.init)(jax.random.key(3), x)
    optimizer = optax.adam(0.02)
    state = optimizer.init(params)

    def objective(params):
        y, aux = layer.apply(params, x, record=True)
        outputs, masks = by_expert(y, aux.routing)
        loss = custom_loss(outputs, masks, target)
        return loss + 0.1 * aux.losses['load_balance'], (loss, outputs, masks)

    @jax.jit
    def step(params, state):
        value_and_grad = jax.value_and_grad(objective, has_aux=True)
        (_, (loss, *_)), gradients = value_and_grad(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for _ in range(steps):
        params, state, loss = step(params, state)
        losses.append(float(loss))

    _, (_, (output_a, output_b), (mask_a, mask_b)) = objective(params)
    print('rows of expert A', output_a[mask_a].shape)
    print('rows of expert B', output_b[mask_b].shape)
    right = float(jnp.mean(mask_b == second))
    print(f'loss {losses[0]:.3f} -> {losses[-1]:.3f}, {right:.0%} sent right')
    return {'first': losses[0], 'last': losses[-1], 'right': right}


if __name__ == '__main__':
    main()
