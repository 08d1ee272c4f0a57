"""One mixture layer in every implementation, with the same rows and weights.

T tokens, D width, F hidden width, E experts, K choices a token.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from benchmarks.problem import FACTOR, Problem, Setting, rows_within_capacity
from benchmarks.record import why_missing
from benchmarks.timing import Call, Case, Rows, waiting
from moe.experts import MLP
from moe.layers import MoE
from moe.routing import top_k

# Experts beyond which `lax.ragged_dot` is not run: all but TPUs execute E times
# the useful FLOPs, with as much memory.
_MOST = {'cpu': 32, 'gpu': 8, 'tpu': 1024}

# A function of (params, x [T, D]) that returns y [T, D].
Layer = Callable[[Any, Array], Array]


def dense(setting: Setting) -> Layer:
    """Returns a dense layer of the same useful FLOPs.

    Args:
      setting: the setting.
    """
    module = MLP(setting.k * setting.hidden, dtype=setting.dtype)
    apply: Any = module.apply
    return lambda params, x: apply({'params': params}, x)


def ours(
    setting: Setting,
    dispatcher: str,
    factor: float | None,
    communication: str = 'none',
) -> Layer:
    """Returns this library's layer.

    Args:
      setting: the setting.
      dispatcher: name of the dispatcher.
      factor: capacity factor; None is dropless.
      communication: name of the expert-parallel communication.
    """
    s = setting
    module = MoE(
        experts=MLP(s.hidden, s.num_experts, dtype=s.dtype),
        router=functools.partial(top_k, k=s.k),
        dispatcher=dispatcher,
        communication=communication,
        eval_capacity_factor=factor,
    )

    def layer(params, x):
        grouped = x.reshape(-1, min(s.group, s.tokens), s.width)
        y: Any = module.apply({'params': params}, grouped)
        return y[0].reshape(x.shape)

    return layer


def _route(params, x, k: int) -> tuple[Array, Int[Array, 'T K']]:
    logits = jnp.dot(
        x.astype(jnp.float32),
        params['router'],
        precision=jax.lax.Precision.HIGHEST,
    )
    probs = jax.nn.softmax(logits)
    gates, chosen = jax.lax.top_k(probs, k)
    return gates / jnp.sum(gates, axis=-1, keepdims=True), chosen


def ragged_dot(setting: Setting) -> Layer:
    """Returns a layer of JAX alone: rows sorted by expert, `lax.ragged_dot`.

    Args:
      setting: the setting.
    """

    def layer(params, x):
        gates, chosen = _route(params, x, setting.k)
        order = jnp.argsort(chosen.reshape(-1))
        token = order // setting.k
        sizes = jnp.bincount(chosen.reshape(-1), length=setting.num_experts)
        product = lambda rows, w: jax.lax.ragged_dot(rows, w, sizes)
        w, rows = params['experts'], x[token]
        h = jax.nn.silu(product(rows, w['gate'])) * product(rows, w['up'])
        weight = gates.reshape(-1)[order, None].astype(x.dtype)
        out = product(h, w['down']) * weight
        return jnp.zeros_like(x).at[token].add(out)

    return layer


def one_hot(setting: Setting) -> Layer:
    """Returns a layer of JAX alone: one-hot einsums with capacity.

    Source: GShard, arXiv 2006.16668, appendix A.

    Args:
      setting: the setting.
    """
    s, size = setting, min(setting.group, setting.tokens)

    def layer(params, x):
        gates, chosen = _route(params, x, s.k)
        hit = jax.nn.one_hot(chosen, s.num_experts, dtype=jnp.int32)
        # First choices take their places before second ones.
        hit = hit.reshape(-1, size, s.k, s.num_experts)
        turn = hit.swapaxes(1, 2).reshape(-1, s.k * size, s.num_experts)
        place = jnp.cumsum(turn, axis=1) - turn
        place = place.reshape(-1, s.k, size, s.num_experts).swapaxes(1, 2)
        place = jnp.where(hit > 0, place, s.capacity)
        slot = jax.nn.one_hot(place, s.capacity, dtype=x.dtype)
        gates = gates.reshape(-1, size, s.k).astype(x.dtype)
        combine = jnp.einsum('gskec,gsk->gsec', slot, gates)
        tokens = x.reshape(-1, size, s.width)
        send = jnp.sum(slot, axis=2)
        rows = jnp.einsum('gsec,gsd->egcd', send, tokens)
        w = params['experts']
        product = lambda a, b: jnp.einsum('egcd,edf->egcf', a, b)
        h = jax.nn.silu(product(rows, w['gate'])) * product(rows, w['up'])
        out = product(h, w['down'])
        return jnp.einsum('gsec,egcd->gsd', combine, out).reshape(x.shape)

    return layer


def gradients(layer: Layer) -> Callable[[Any, Array], Any]:
    """Returns a function of (params, x): the loss, and gradients by both.

    The loss is the mean square of the outputs, in float32.

    Args:
      layer: the layer.
    """

    def loss(params, x):
        y = layer(params, x).astype(jnp.float32)
        return jnp.mean(jnp.square(y))

    return jax.value_and_grad(loss, argnums=(0, 1))


def digest(result: Any) -> tuple[float, ...]:
    """Returns the loss and the norm of its gradient by the tokens.

    Args:
      result: (loss, (gradients of parameters, gradient of the tokens)).
    """
    if not isinstance(result, tuple):
        return ()  # of no layer
    loss, (_, dx) = result
    return float(loss), float((dx * dx).sum()) ** 0.5


def jax_case(
    problem: Problem,
    name: str,
    layer: Layer,
    rows: Rows | None,
    not_run: str = '',
) -> Case:
    """Returns the case of a layer of JAX, forward and backward.

    Args:
      problem: its arrays.
      name: name of the case; dense layers begin with 'dense'.
      layer: the layer.
      rows: rows that experts multiply; None for a dense layer.
      not_run: why it cannot run; '' if it can.
    """

    def build() -> Call:
        is_dense = name.startswith('dense')
        params = problem.dense_params if is_dense else problem.params
        step = jax.jit(gradients(layer)).lower(params, problem.x).compile()

        def call():
            for _ in range(problem.repeats):
                result = step(params, problem.x)
            return result

        return waiting(call)

    setting, repeats = problem.setting, problem.repeats
    facts = setting.facts()
    return Case(name, build, setting.flops, rows, not_run, facts, repeats)


def jax_layers(setting: Setting) -> dict[str, tuple[Layer, Rows | None]]:
    """Returns the layers of JAX, ours and baselines, with their rows.

    Args:
      setting: the setting.
    """
    every, within = Rows(setting.rows), rows_within_capacity(setting)
    return {
        'dense (XLA)': (dense(setting), None),
        'grouped, dropless': (ours(setting, 'grouped', None), every),
        'grouped, capacity 1.25': (
            ours(setting, 'grouped', FACTOR),
            dataclasses.replace(within, padded=0),
        ),
        'indexed, capacity 1.25': (ours(setting, 'indexed', FACTOR), within),
        'onehot, capacity 1.25': (ours(setting, 'onehot', FACTOR), within),
        'JAX ragged_dot': (ragged_dot(setting), every),
        'JAX one-hot einsum, capacity 1.25': (one_hot(setting), within),
    }


def cases(
    setting: Setting, dropless_only: bool = False, repeats: int = 1
) -> Iterator[Case]:
    """Yields every implementation of a setting, that of the limit first.

    Args:
      setting: the setting.
      dropless_only: whether to leave out dense layers, baselines that are
        slow, and those with capacity: for further loads of the same layer.
      repeats: how often a call goes through the layer.
    """
    problem = Problem(setting, repeats)
    for name, (layer, rows) in jax_layers(setting).items():
        if dropless_only and name != 'grouped, dropless':
            continue
        reason, count = '', setting.num_experts
        if name == 'JAX ragged_dot' and count > _MOST[jax.default_backend()]:
            reason = (
                f'executes {count} times the useful FLOPs, in as much memory'
            )
        yield jax_case(problem, name, layer, rows=rows, not_run=reason)
    yield from _peers(problem, dropless_only)


# Name to the modules that it needs.
PEERS = {
    'dense (PyTorch)': ('torch',),
    'PyTorch loop over experts': ('torch',),
    'transformers grouped_mm': ('torch', 'transformers'),
    'mixture-of-experts, capacity 1.25': ('torch', 'mixture_of_experts'),
}


def _peers(problem: Problem, dropless_only: bool) -> Iterator[Case]:
    setting = problem.setting
    every = Rows(setting.rows)
    rows = {
        'dense (PyTorch)': None,
        # Its buffers have at least 4 rows.
        'mixture-of-experts, capacity 1.25': rows_within_capacity(
            setting, max(setting.capacity, 4)
        ),
    }
    for name, modules in PEERS.items():
        if dropless_only and name in rows:
            continue

        def build(name=name) -> Call:
            from benchmarks import torch_layers

            return torch_layers.build(name, problem)

        reason = why_missing(*modules)
        if name.startswith('mixture') and setting.k != 2:
            reason = 'has top-2 gating alone'
        yield Case(
            name,
            build,
            setting.flops,
            rows.get(name, every),
            reason,
            setting.facts(),
            problem.repeats,
        )
