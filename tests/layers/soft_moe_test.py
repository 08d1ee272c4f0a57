"""The soft mixture layer against loops, and its gradients against jax's own."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.experts import MLP
from moe.layers import SoftMoE
from moe.routing import soft
from tests import tiny
from tests.reference import experts as reference_experts
from tests.reference import layer as reference_layer
from tests.reference.compare import assert_close
from tests.reference.routing import softmax

G, S, D, E, F = 2, 5, 4, 3, 3
MASK = np.array([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]], bool)
EMPTY = np.array([[0] * S, [1] * S], bool)


X, DY = tiny.numbers((G, S, D), 0), tiny.numbers((G, S, D), 1)


def build(factor=1.0, num_groups=None, dtype=jnp.float32):
    router = functools.partial(soft, capacity_factor=factor)
    return SoftMoE(MLP(F, num_experts=E, dtype=dtype), router, num_groups)


def params_of(slots):
    return {
        'router': tiny.numbers((D, E * slots), 2),
        'scale': np.float32(1.5),
        'experts': {
            'up': tiny.numbers((E, D, F), 3),
            'gate': tiny.numbers((E, D, F), 4),
            'down': tiny.numbers((E, F, D), 5),
        },
    }


@functools.cache
def program(factor=1.0, num_groups=None):
    """Gradients of the outputs and losses, and what they are of."""
    layer = build(factor, num_groups)

    def objective(params, x, mask):
        y, aux = layer.apply({'params': params}, x, mask=mask, train=True)
        total = jnp.sum(y * DY)
        return total + aux.losses['router_z'], (y, aux)

    return jax.jit(jax.grad(objective, argnums=(0, 1), has_aux=True))


def run(params, x, mask, **options):
    (d_params, d_x), (y, aux) = program(**options)(params, x, mask)
    return jax.device_get((y, aux, d_params, d_x))


def by_loop(params, x, mask, slots):
    """Outputs, shares of the experts, logits; groups are the rows."""
    wide = jax.tree.map(np.float64, params)
    x = np.where(mask[..., None], np.float64(x), 0)
    y, share = np.zeros(x.shape), np.zeros((*mask.shape, E))
    logits = np.zeros((*mask.shape, E * slots))
    for g in range(len(x)):
        live = np.flatnonzero(mask[g])
        if not live.size:
            continue
        for s, n in np.ndindex(x.shape[1], E * slots):
            slot = wide['router'][:, n] / np.linalg.norm(wide['router'][:, n])
            length = np.linalg.norm(x[g, s]) or 1.0
            logits[g, s, n] = wide['scale'] * np.dot(x[g, s], slot) / length
        out = np.zeros((E * slots, D))
        for n in range(E * slots):
            row = softmax(logits[g, live, n]) @ x[g, live]
            expert = reference_experts.expert_of(wide['experts'], n // slots)
            out[n] = reference_experts.mlp(row, expert, 'swiglu')
        for s in live:
            combine = softmax(logits[g, s])
            y[g, s] = combine @ out
            for n in range(E * slots):
                share[g, s, n // slots] += combine[n]
    return y, share, logits


# ceil(5*1/3) = 2 and ceil(5*.5/3) = 1 slots; two rows as one group: of 10
# tokens, ceil(10/3) = 4.
@pytest.mark.parametrize('mask', [MASK, EMPTY], ids=['padded', 'empty'])
@pytest.mark.parametrize(
    ('factor', 'num_groups', 'slots'),
    [(1.0, None, 2), (0.5, None, 1), (1, 1, 4)],
)
def test_equals_the_loop(factor, num_groups, slots, mask):
    groups = num_groups or G
    assert slots == math.ceil(S * G * factor / groups / E)
    params = params_of(slots)
    options = {'factor': factor, 'num_groups': num_groups}
    y, aux, d_params, d_x = run(params, X, mask, **options)
    grid = mask.reshape(groups, -1)
    desired, share, logits = by_loop(
        params, X.reshape(*grid.shape, D), grid, slots
    )
    assert_close(y, desired.reshape(X.shape), 5e-6)
    assert not np.any(y[~mask])
    assert not np.any(d_x[~mask])
    for leaf in jax.tree.leaves((d_params, d_x)):
        assert np.all(np.isfinite(leaf))
        assert np.any(leaf)
    # A token's share of an expert is its gate, probability and load.
    counts = share.sum(1)
    losses = {
        'load_balance': reference_layer.load_balance(
            share, counts, grid, 'global'
        ),
        'router_z': reference_layer.router_z(logits, grid),
        'l1': 1.0,
    }
    assert_close({n: aux.losses[n] for n in losses}, losses, 5e-6)
    stats = {
        'load': counts.sum(0) * E / mask.sum(),
        'dropped': 0.0,
        'experts_per_token': 1.0,
    }
    got = {n: aux.stats[n] for n in stats}
    assert_close(got, stats, 5e-6, scale=1.0)


def dense(params, x, mask):
    """The layer as one formula."""
    unit = lambda v, axis: v / jnp.sqrt(jnp.sum(v * v, axis, keepdims=True))
    logits = unit(x, -1) @ (params['scale'] * unit(params['router'], 0))
    hidden = jnp.where(mask[..., None], logits, -jnp.inf)
    rows = jnp.einsum('gsn,gsd->gnd', jax.nn.softmax(hidden, 1), x)
    rows = rows.reshape(G, E, -1, D)
    p = params['experts']
    up = jnp.einsum('gepd,edf->gepf', rows, p['up'])
    gate = jnp.einsum('gepd,edf->gepf', rows, p['gate'])
    out = jnp.einsum('gepf,efd->gepd', jax.nn.silu(gate) * up, p['down'])
    y = jnp.einsum(
        'gsn,gnd->gsd', jax.nn.softmax(logits, -1), out.reshape(G, -1, D)
    )
    z = jnp.square(jax.nn.logsumexp(logits, -1))
    live = mask[..., None]
    return jnp.sum(jnp.where(live, y * DY, 0)) + jnp.sum(z * mask) / mask.sum()


def test_gradients_are_those_of_the_formula():
    params = params_of(2)
    *_, d_params, d_x = run(params, X, MASK)
    desired = jax.jit(jax.grad(dense, argnums=(0, 1)))(params, X, MASK)
    assert_close((d_params, d_x), desired, 1e-5)


def test_padding_influences_nothing():
    params = params_of(2)
    one = run(params, X, MASK)
    for garbage in (1e3, np.nan):
        x = np.where(MASK[..., None], X, np.float32(garbage))
        jax.tree.map(np.testing.assert_array_equal, run(params, x, MASK), one)


def test_permuting_tokens_permutes_outputs():
    params, order = params_of(2), np.array([3, 0, 4, 1, 2])
    y, aux, *_ = run(params, X, MASK)
    y_moved, aux_moved, *_ = run(params, X[:, order], MASK[:, order])
    assert_close(y_moved, y[:, order], 2e-6)
    assert_close(dict(aux_moved.losses), dict(aux.losses), 2e-6)
    assert_close(dict(aux_moved.stats), dict(aux.stats), 2e-6)


def test_balanced_when_all_slots_are_alike():
    # No slot differs from another: every share is 1/3.
    params = {**params_of(2), 'router': np.zeros((D, 2 * E), np.float32)}
    _, aux, d_params, _ = run(params, X, MASK)
    np.testing.assert_allclose(aux.losses['load_balance'], 1, rtol=1e-6)
    np.testing.assert_allclose(aux.losses['sequence_balance'], 1, rtol=1e-6)
    np.testing.assert_allclose(aux.stats['load'], 1, rtol=1e-6)
    assert np.all(np.isfinite(d_params['router']))


def test_without_mask_and_in_bfloat16():
    params = params_of(2)
    y, aux = jax.jit(build().apply)({'params': params}, X)
    desired, *_ = by_loop(params, X, np.ones((G, S), bool), 2)
    assert_close(y, desired, 5e-6)
    assert aux.routing is None
    layer = build(dtype=jnp.bfloat16)
    y, aux = jax.jit(layer.apply)({'params': params}, X.astype(jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert_close(y, desired, 3e-2)
    assert {v.dtype for v in aux.losses.values()} == {jnp.dtype('float32')}


def test_first_parameters():
    params = jax.jit(build().init)(jax.random.key(0), X)['params']
    assert params['router'].shape == (D, E * 2)
    assert params['scale'] == 1
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype('float32')}


def test_tokens_that_do_not_divide_into_groups():
    with pytest.raises(ValueError, match=r'10 tokens do not .* num_groups = 3'):
        build(num_groups=3).init(jax.random.key(0), X)
