"""A mixture inside a model of your own, in Flax linen and in Flax NNX.

The linen model stacks blocks by `nn.scan` and recomputes each in the backward
pass by `nn.remat`. Every mixture returns `(y, aux)`: nothing is stored on the
side, so the losses and statistics of all layers leave the scan as its outputs,
with a leading axis of layers. The loop is plain optax.

In NNX the layer is wrapped by `flax.nnx.bridge.ToNNX`.

The task: sort the numbers of a short sequence.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from flax.nnx import bridge

from moe.experts import MLP
from moe.layers import MoE
from moe.routing import top_k

LENGTH, VOCABULARY, WIDTH, LAYERS = 8, 16, 32, 2


def mixture() -> MoE:
    """Returns a mixture of 4 experts, 2 a token, that drops nothing."""
    experts = MLP(hidden=64, num_experts=4, parent=None)
    router = functools.partial(top_k, k=2)
    return MoE(experts, router, dispatcher='grouped')


class Block(nn.Module):
    """Attention, then a mixture, each added to its input."""

    @nn.compact
    def __call__(self, x, _):
        """Returns the carry of a scan, and what it stacks."""
        x = x + nn.MultiHeadDotProductAttention(num_heads=4)(nn.LayerNorm()(x))
        y, aux = mixture()(nn.LayerNorm()(x))
        return x + y, aux


class Sorter(nn.Module):
    """A transformer from sequences [B, S] to logits [B, S, V]."""

    @nn.compact
    def __call__(self, tokens):
        """Returns the logits, and the Aux of all layers, each value [L, ...]"""
        place = self.param('place', nn.initializers.normal(), (LENGTH, WIDTH))
        x = nn.Embed(VOCABULARY, WIDTH)(tokens) + place
        blocks = nn.scan(
            nn.remat(Block, prevent_cse=False),
            variable_axes={'params': 0},
            split_rngs={'params': True},
            length=LAYERS,
        )
        x, aux = blocks(name='blocks')(x, None)
        return nn.Dense(VOCABULARY)(nn.LayerNorm()(x)), aux


def batch(key):
    """Returns sequences and the same ones sorted."""
    tokens = jax.random.randint(key, (32, LENGTH), 0, VOCABULARY)
    return tokens, jnp.sort(tokens, axis=-1)


def objective_of(logits, labels, aux):
    """Returns the objective, and the cross-entropy in it."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    balance = jnp.mean(aux.losses['load_balance'])  # over the layers
    return jnp.mean(losses) + 1e-2 * balance, jnp.mean(losses)


def in_linen(steps: int) -> list[float]:
    """Returns the cross-entropy of each step."""
    model = Sorter()
    params = jax.jit(model.init)(jax.random.key(0), batch(jax.random.key(1))[0])
    optimizer = optax.adamw(3e-3)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, key):
        tokens, labels = batch(key)

        def objective(params):
            logits, aux = model.apply(params, tokens)
            return objective_of(logits, labels, aux)

        gradients, loss = jax.grad(objective, has_aux=True)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for i in range(steps):
        params, state, loss = step(params, state, jax.random.key(i))
        losses.append(float(loss))
    return losses


class Tagger(nnx.Module):
    """An NNX model around the same mixture: sorts nothing, copies tokens."""

    def __init__(self, rngs: nnx.Rngs):
        x = jnp.zeros((1, LENGTH, WIDTH))
        self.embed = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.mixture = bridge.lazy_init(bridge.ToNNX(mixture(), rngs=rngs), x)
        self.head = nnx.Linear(WIDTH, VOCABULARY, rngs=rngs)

    def __call__(self, tokens):
        """Returns the logits and the Aux."""
        x = self.embed(tokens)
        y, aux = self.mixture(x)
        return self.head(x + y), aux


def in_nnx(steps: int) -> list[float]:
    """Returns the cross-entropy of each step."""
    model = Tagger(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adamw(3e-3), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, key):
        tokens, _ = batch(key)

        def objective(model):
            logits, aux = model(tokens)
            return objective_of(logits, tokens, aux)

        gradients, loss = nnx.grad(objective, has_aux=True)(model)
        optimizer.update(model, gradients)
        return loss

    return [
        float(step(model, optimizer, jax.random.key(i))) for i in range(steps)
    ]


def main(steps: int = 200) -> dict[str, list[float]]:
    """Trains both models, and returns the losses of each."""
    results = {'linen': in_linen(steps), 'nnx': in_nnx(steps)}
    for name, losses in results.items():
        print(f'{name}: {losses[0]:.2f} -> {losses[-1]:.2f}')
    return results


if __name__ == '__main__':
    main()
