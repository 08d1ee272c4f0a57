"""Gated experts against float64, by the kernels and without them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.ops import gated_experts, takes_gated

A, E, D, F = 24, 3, 5, 4
NAMES = ('x', 'up', 'gate', 'down')


@pytest.fixture(params=['native', 'plain'])
def kernels(request, monkeypatch):
    """The kernels of this processor, or what other platforms take."""
    if request.param == 'plain':
        plain = lambda *v, default, **_: default(*v)
        monkeypatch.setattr(jax.lax, 'platform_dependent', plain)


def arrays(scale=1.0):
    rng = np.random.default_rng(0)
    shapes = (A, D), (E, D, F), (E, D, F), (E, F, D)
    found = [rng.standard_normal(shape) for shape in shapes]
    found[2] *= scale
    return [v.astype(np.float32) for v in found]


def oracle(x, up, gate, down, sizes):
    """Outputs of swiglu experts, and gradients of half their square sum."""
    x, up, gate, down = (v.astype(np.float64) for v in (x, up, gate, down))
    y = np.zeros_like(x)
    grads = [np.zeros_like(v) for v in (x, up, gate, down)]
    start = 0
    for e, size in enumerate(sizes):
        stop = min(start + size, A)
        rows, start = slice(start, stop), stop
        g, u = x[rows] @ gate[e], x[rows] @ up[e]
        s = (1 + np.tanh(g / 2)) / 2  # the sigmoid
        h = g * s * u
        y[rows] = dy = h @ down[e]
        dh = dy @ down[e].T
        d_up, d_gate = dh * g * s, dh * u * (s + g * s * (1 - s))
        grads[0][rows] = d_up @ up[e].T + d_gate @ gate[e].T
        grads[1][e], grads[2][e] = x[rows].T @ d_up, x[rows].T @ d_gate
        grads[3][e] = h.T @ dy
    return y, grads


@pytest.mark.usefixtures('kernels')
@pytest.mark.parametrize(
    ('sizes', 'scale', 'padded'),
    [
        ([7, 9, 8], 1.0, False),
        ([0, 24, 0], 1.0, False),  # all rows to one expert
        ([3, 0, 2], 1.0, False),  # rows of no expert
        ([20, 20, 20], 1.0, False),  # more rows than there are
        ([7, 9, 8], 300.0, False),  # exp of gates overflows
        ([8, 8, 8], 1.0, True),
    ],
)
def test_values_and_gradients(sizes, scale, padded):
    given = arrays(scale)
    y, grads = oracle(*given, sizes)
    counts = jnp.array(sizes, jnp.int32)

    def loss(*v):
        y = gated_experts(*v, counts, 'swiglu', padded)
        return jnp.sum(y * y) / 2, y

    found, actual = jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True)(*given)
    alone = gated_experts(*given, counts, 'swiglu', padded)
    for value in (actual, alone):
        np.testing.assert_allclose(
            value, y, atol=1e-5 * max(np.abs(y).max(), 1)
        )
    for name, g, desired in zip(NAMES, found, grads, strict=True):
        atol = 1e-5 * max(np.abs(desired).max(), 1)
        np.testing.assert_allclose(g, desired, atol=atol, err_msg=name)


def test_batched_and_rematerialized():
    sizes = jnp.array([7, 9, 8], jnp.int32)
    given = arrays()
    stacked = [jnp.stack([v, v + 1]) for v in given]
    apply = lambda *v: gated_experts(*v, sizes, 'geglu')
    each = jnp.stack([apply(*(v[i] for v in stacked)) for i in range(2)])
    np.testing.assert_array_equal(jax.vmap(apply)(*stacked), each)
    policy = jax.checkpoint_policies.save_only_these_names('hidden')
    loss = lambda f: lambda *v: jnp.sum(f(*v) ** 2)
    kept = jax.checkpoint(apply, policy=policy)
    for a, b in zip(
        jax.grad(loss(kept), argnums=(0, 1, 2, 3))(*given),
        jax.grad(loss(apply), argnums=(0, 1, 2, 3))(*given),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_what_is_taken():
    x = jnp.ones((2, 3))
    for known in ('swiglu', 'geglu'):
        assert takes_gated(x, known)
    for unknown in ('relu', None):
        assert not takes_gated(x, unknown)
    assert not takes_gated(x.astype(jnp.bfloat16), 'swiglu')
