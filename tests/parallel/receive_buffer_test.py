"""A bound on what a device can receive: what is dropped, and who is told."""

import functools

import jax
import numpy as np
import pytest

from moe.layers import MoE
from moe.parallel import (
    MeshConfig,
    batch_sharding,
    make_mesh,
    parameter_shardings,
    ragged,
)
from moe.parameters import declared
from moe.routing import top_k
from tests.parallel.communication_layer_test import Scale
from tests.reference.compare import assert_close

pytestmark = pytest.mark.slow

E, D = 4, 4
# The expert of every token, one row a group of 3; experts 0 and 1 are on the
# first of two devices, and groups are over them in this order.
CROWDED = [[0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1]]
EVEN = [[0, 1, 2], [1, 2, 3], [0, 2, 3], [0, 1, 3]]


def call(choices, sizes, buffer_factor, factor):
    """The outputs and statistics of a layer that routes as told."""
    layer = MoE(
        Scale(E),
        functools.partial(top_k, k=1),
        dispatcher='grouped',
        communication=functools.partial(ragged, buffer_factor=buffer_factor),
        capacity_factor=factor,
    )
    x = np.eye(D, dtype=np.float32)[np.array(choices)]
    variables = {
        'params': {
            'router': 9 * np.eye(D, dtype=np.float32),
            'experts': {'w': np.ones((E, D), np.float32)},
        }
    }
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: np.prod(sizes)])
    apply = jax.jit(functools.partial(layer.apply, train=True))
    parameters = declared(layer.init, jax.random.key(0), x)
    places = parameter_shardings(mesh, variables, parameters)
    with jax.set_mesh(mesh):
        y, aux = apply(
            jax.device_put(variables, places),
            jax.device_put(x, batch_sharding(mesh)),
        )
    # A dropped token has output 0, others tanh of a 1.
    return np.asarray(y).sum(-1) > 0, jax.device_get(aux.stats)


ONE, TWO, FOUR = (1, 1, 1, 1, 1), (1, 1, 1, 2, 1), (1, 2, 1, 2, 1)


def test_beyond_capacity_and_beyond_the_buffer():
    # C = ceil(3 * 1 / 4) = 1 slot: the second token for an expert in a group
    # has none, 4 of 12. Each device sends 4 to the first, whose buffer is
    # 1.0 * 6, those of its own first: of the second device's those for expert
    # 0 come first, and the two for expert 1 find no place.
    served, stats = call(CROWDED, TWO, 1.0, 1.0)
    assert served.astype(int).tolist() == [
        [1, 1, 0],
        [1, 1, 0],
        [1, 0, 0],
        [0, 1, 0],
    ]
    assert_close(stats['dropped_capacity'], 4 / 12, 1e-6)
    assert_close(stats['dropped_buffer'], 2 / 12, 1e-6)
    assert_close(stats['dropped'], 6 / 12, 1e-6)
    assert_close(stats['dropped_buffer_by_sender'], np.array([0, 2 / 12]), 1e-6)
    assert_close(
        stats['dropped_buffer_by_receiver'], np.array([2 / 12, 0]), 1e-6
    )


def test_statistics_are_of_all_devices():
    # Two rows of two devices; only in one of them is the first one crowded:
    # sent 12 rows with a buffer of ceil(1.25 * 6) = 8, it turns 4 away, all of
    # the second sender's; of 24.
    for choices in (CROWDED + EVEN, EVEN + CROWDED):
        served, stats = call(choices, FOUR, 1.25, None)
        assert served.sum() == 20
        assert stats['dropped_capacity'] == 0
        assert_close(stats['dropped_buffer'], 4 / 24, 1e-6)
        by_sender = np.array([0, 4 / 24])
        assert_close(stats['dropped_buffer_by_sender'], by_sender, 1e-6)
        assert_close(stats['dropped_buffer_by_receiver'], by_sender[::-1], 1e-6)


@pytest.mark.parametrize(
    ('sizes', 'buffer_factor'), [(TWO, 2.0), (TWO, 99.0), (ONE, 1)]
)
def test_buffers_for_all(sizes, buffer_factor):
    # Twice the share of two is everything, and one device sends nothing.
    served, stats = call(CROWDED, sizes, buffer_factor, None)
    assert served.all()
    names = ('dropped', 'dropped_capacity', 'dropped_buffer')
    assert [stats[name] for name in names] == [0, 0, 0]
    devices = sizes[3]
    assert stats['dropped_buffer_by_sender'].tolist() == [0] * devices
    assert stats['dropped_buffer_by_receiver'].tolist() == [0] * devices


def test_without_a_bound_nothing_is_said_of_buffers():
    _, stats = call(CROWDED, TWO, None, 1.0)
    assert not any(name.startswith('dropped_') for name in stats)
    assert_close(stats['dropped'], 4 / 12, 1e-6)
