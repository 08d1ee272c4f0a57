"""One mixture layer against the dense layer of the same useful FLOPs."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from benchmarks.timing import medians
from moe.experts import MLP
from moe.layers import MoE
from moe.ops import grouped_matmul
from moe.routing import top_k

# Padding that a capacity factor of 1.25 executes is part of its cost.
_LAYERS = {
    'grouped, dropless': ('grouped', None),
    'indexed, capacity 1.25': ('indexed', 1.25),
    'onehot, capacity 1.25': ('onehot', 1.25),
}


_SLOW = ('product: jax.lax.ragged_dot',)


def run(rows: int, width: int, hidden: int, rounds: int) -> list[str]:
    """Measures products, then whole layers, forward and backward.

    Args:
      rows: (token, choice) pairs; tokens are half as many, K = 2.
      width: D.
      hidden: F of an expert; the dense layer has 2 F.
      rounds: how many times each is timed.

    Returns:
      The lines of the report: times over the dense limit's.
    """
    lines = [
        f'{rows} rows, D = {width}, F = {hidden}, K = 2, float32, '
        f'{jax.devices()[0].platform}; time / time of the dense limit',
        '',
        '| | E=8 | E=64 | E=64 / E=8 |',
        '| --- | --- | --- | --- |',
    ]
    table: dict[str, list[float]] = {}
    for num_experts in (8, 64):
        calls = _products(rows, width, hidden, num_experts)
        # Too slow on CPU to be timed as often.
        slow = {k: calls.pop(k) for k in _SLOW}
        times = medians(calls, rounds)
        _collect(table, times | medians(slow, 1))
        calls = _layers(rows // 2, width, hidden, num_experts)
        _collect(table, medians(calls, rounds))
    for name, (few, many) in table.items():
        lines.append(f'| {name} | {few:.2f} | {many:.2f} | {many / few:.2f} |')
    return lines


def _collect(table: dict[str, list[float]], times: dict[str, float]) -> None:
    """Adds each time over that of the dense call of the same kind."""
    for name, seconds in times.items():
        kind = name.split(':')[0]
        if not name.endswith(': dense'):
            table.setdefault(name, []).append(seconds / times[f'{kind}: dense'])


def _uneven_sizes(rows: int, num_experts: int) -> Array:
    """Group sizes from 1/2 to 3/2 of the mean, as a trained router's."""
    shares = jnp.linspace(0.5, 1.5, num_experts)
    sizes = jnp.floor(shares / jnp.sum(shares) * rows).astype(jnp.int32)
    return sizes.at[0].add(rows - jnp.sum(sizes))


def _products(rows, width, hidden, num_experts):
    """`grouped_matmul` and `ragged_dot` against one dense product."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (rows, width))
    w = jax.random.normal(keys[1], (num_experts, width, hidden))
    sizes = _uneven_sizes(rows, num_experts)

    def gradient(product):
        def loss(x, w):
            return jnp.sum(jnp.square(product(x, w)))

        return jax.jit(jax.grad(loss, argnums=(0, 1)))

    grouped = lambda x, w: grouped_matmul(x, w, sizes)
    ragged = lambda x, w: jax.lax.ragged_dot(x, w, sizes)
    dense = lambda x, w: x @ w
    forward = {
        'product: dense': functools.partial(jax.jit(dense), x, w[0]),
        'product: grouped_matmul': functools.partial(jax.jit(grouped), x, w),
        'product: jax.lax.ragged_dot': functools.partial(jax.jit(ragged), x, w),
    }
    backward = {
        'product and gradients: dense': functools.partial(
            gradient(dense), x, w[0]
        ),
        'product and gradients: grouped_matmul': functools.partial(
            gradient(grouped), x, w
        ),
    }
    return forward | backward


def _layers(tokens, width, hidden, num_experts):
    """Whole layers, routing included, with gradients of everything."""
    group = min(tokens, 256)
    x = jax.random.normal(jax.random.key(1), (tokens // group, group, width))

    def gradient(module, output):
        variables = module.init(jax.random.key(2), x)

        def loss(variables, x):
            return jnp.sum(jnp.square(output(module.apply(variables, x))))

        step = jax.jit(jax.grad(loss, argnums=(0, 1)))
        return functools.partial(step, variables, x)

    calls = {'layer: dense': gradient(MLP(hidden=2 * hidden), lambda y: y)}
    for name, (dispatcher, factor) in _LAYERS.items():
        layer = MoE(
            experts=MLP(hidden=hidden, num_experts=num_experts),
            router=functools.partial(top_k, k=2),
            dispatcher=dispatcher,
            eval_capacity_factor=factor,
        )
        calls[f'layer: {name}'] = gradient(layer, lambda out: out[0])
    return calls
