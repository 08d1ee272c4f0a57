"""Gradients of a model with what published ones have, on a mesh."""

import jax
import numpy as np
import pytest

from moe.parallel import (
    MeshConfig,
    batch_sharding,
    make_mesh,
    parameter_shardings,
)
from moe.routing import update_router_state
from moe.training.gradient import make_gradient
from tests import tiny
from tests.reference.compare import assert_close

pytestmark = pytest.mark.slow

CLAMPED = {'name': 'clamped_swiglu', 'limit': 0.75, 'alpha': 1.5}
CHANGES = {
    'model.dense_layers': (0,),
    'model.norm': 'layer',
    'model.embedding_scale': 3.0,
    'model.residual_scale': 0.5,
    'model.logit_scale': 0.25,
    'model.dense.use_bias': True,
    'model.moe.router': {'name': 'sigmoid', 'k': 2},
    'model.moe.router_bias': True,
    'model.moe.experts.activation': CLAMPED,
    'model.moe.experts.use_bias': True,
    'model.moe.shared': {'network': {'hidden': 8}, 'gate': 'sigmoid'},
    'model.mtp': {'depth': 1, 'weight': 0.3},
    'losses': {'load_balance': 0.01, 'output_z': 0.1},
}
BATCH = np.random.default_rng(0).integers(0, 256, (8, 17), np.uint8)


def run(sizes):
    """Gradients, metrics and router states of a step on a mesh."""
    config = tiny.parsed(CHANGES)
    workload = config.make_workload()
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: np.prod(sizes)])
    state = tiny.state(config)
    given = (state.params, state.model_state)
    with jax.set_mesh(mesh):
        places = parameter_shardings(mesh, given[0], workload.parameters)
        params = jax.device_put(given[0], places)
        tokens = jax.device_put(BATCH, batch_sharding(mesh))
        gradient = jax.jit(make_gradient(config, workload))
        key = jax.random.key(0)
        gradients, metrics, statistics, _ = gradient(
            params, given[1], tokens, key
        )
    routers = update_router_state(given[1]['router_state'], statistics)
    return params, jax.device_get((gradients, metrics, routers))


def test_equals_one_device():
    _, desired = run((1, 1, 1, 1, 1))
    params, actual = run((1, 1, 2, 2, 2))
    block = params['mtp_1']['stack']['layers']['block_0']
    up = block['moe']['mixture']['experts']['up']
    assert up.addressable_shards[0].data.shape == (1, 2, 8, 8)
    gradients, metrics, routers = desired
    assert_close(actual[0], gradients, 1e-5)
    names = ('loss', 'mtp_1', 'output_z', 'load_balance', 'objective')
    of = lambda metrics: {n: metrics[f'train/{n}'] for n in names}
    assert_close(of(actual[1]), of(metrics), 1e-6)
    # The objective is what its terms sum to.
    found = {name: float(value) for name, value in of(metrics).items()}
    total = found['loss'] + 0.3 * found['mtp_1'] + 0.1 * found['output_z']
    total += 0.01 * found['load_balance']
    np.testing.assert_allclose(found['objective'], total, rtol=1e-5)
    # The selection biases of the model's mixture and of the depth's moved.
    assert_close(actual[2], routers, 1e-6)
    biases = jax.tree.leaves(routers)
    assert len(biases) == 2
    assert all(np.any(bias) for bias in biases)
