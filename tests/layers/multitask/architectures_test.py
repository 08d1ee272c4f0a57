"""The named architectures: who sees whom."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.experts import Network
from moe.layers.multitask import (
    cgc,
    mmoe,
    omoe,
    shared_bottom,
    single_task,
)
from tests import tiny
from tests.reference import multitask as reference
from tests.reference.compare import assert_close

pytestmark = pytest.mark.slow

B, D, F, H, T = 4, 3, 4, 2, 3
X = tiny.numbers((B, D), 0)
network = functools.partial(Network, (F, H))
# Tasks and experts: 2 experts of each of the 3 tasks, and 1 of all.
SEES = [[1, 1, 0, 0, 0, 0, 1], [0, 0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 1, 1, 1]]


def run(layer):
    """Outputs, mean gates, each expert's outputs, and gradients by task."""
    params = tiny.parameters(layer.init, X, scale=0.7)

    @jax.jit
    def apply(params):
        y, aux = layer.apply({'params': params}, X)
        return jnp.moveaxis(y, 1, 0), aux.stats['gate']

    y, gate = apply(params)
    slopes = jax.jacrev(lambda p: jnp.sum(apply(p)[0] ** 2, axis=(1, 2)))
    count = len(params['experts']['dense_0']['bias'])
    outputs = [
        reference.network(
            np.float64(X),
            reference.one_of(params['experts'], e),
            ('relu', 'linear'),
        )
        for e in range(count)
    ]
    return y, gate, outputs, jax.jit(slopes)(params)


@pytest.mark.parametrize('shared_gate', [False, True])
def test_cgc_task_trains_what_it_sees_and_nothing_else(shared_gate):
    layer = cgc(network, T, 2, 1, shared_gate=shared_gate)
    sees = np.array(SEES + [[1] * 7] * shared_gate)
    y, gate, _, slopes = run(layer)
    assert y.shape == (T + shared_gate, B, H)
    np.testing.assert_array_equal(np.asarray(gate) > 0, sees)
    np.testing.assert_allclose(np.sum(gate, axis=1), 1, rtol=1e-6)
    reached = slopes['experts']['dense_1']['bias']
    np.testing.assert_array_equal(np.any(reached != 0, axis=-1), sees)


def test_mmoe_and_omoe():
    y, gate, _, slopes = run(mmoe(network, 4, T))
    assert y.shape == (T, B, H)
    assert gate.shape == (T, 4)
    assert np.all(np.asarray(y[0]) != y[1])
    # A task's output moves its own gate alone.
    own = np.any(slopes['gates_of_4']['router'] != 0, axis=(2, 3))
    np.testing.assert_array_equal(own, np.eye(T))
    y, gate, _, _ = run(omoe(network, 4, T))
    assert y.shape == (T, B, H)
    assert gate.shape == (1, 4)
    for task in (1, 2):
        np.testing.assert_array_equal(y[task], y[0])


def test_shared_bottom_is_one_network():
    y, gate, (bottom,), slopes = run(shared_bottom(network, T))
    assert gate.tolist() == [[1.0]]
    assert_close(y, np.stack([bottom] * T), 2e-6)
    # The gate is the constant 1.
    assert not np.any(slopes['gates_of_1']['router'])


def test_single_task_shares_nothing():
    y, gate, outputs, slopes = run(single_task(network, T))
    np.testing.assert_array_equal(gate, np.eye(T))
    assert_close(y, np.stack(outputs), 2e-6)
    reached = slopes['experts']['dense_0']['kernel']
    reached = np.any(reached != 0, axis=(2, 3))
    np.testing.assert_array_equal(reached, np.eye(T))
