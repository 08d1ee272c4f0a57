"""A layer whose batch is split over devices, with all experts on each."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.experts import MLP
from moe.layers import MoE
from moe.parallel import MeshConfig, batch_sharding, make_mesh
from tests import tiny

pytestmark = pytest.mark.slow

AXES = [{'data': 8}, {'replica': 2, 'data': 2, 'fsdp': 2}]
X = np.random.default_rng(0).normal(size=(16, 32, 16)).astype(np.float32)


def compiled(dispatcher, axes, num_groups=None):
    """Loss and gradients compiled for a mesh, or for one device."""
    layer = MoE(MLP(4, 32), num_groups=num_groups, dispatcher=dispatcher)
    count = 8 if axes else 1
    mesh = make_mesh(MeshConfig(**axes or {'data': 1}), jax.devices()[:count])
    with jax.set_mesh(mesh):
        variables = {'params': tiny.parameters(layer.init, X)}
        x = jax.device_put(X, batch_sharding(mesh))

        def loss(variables, x):
            y, aux = layer.apply(variables, x, train=True)
            return jnp.sum(jnp.sin(y)) + aux.losses['load_balance']

        step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
        program = step.lower(variables, x).compile()
        return program, program(variables, x)


@pytest.fixture(scope='module')
def alone():
    return {name: compiled(name, None) for name in ('indexed', 'grouped')}


@pytest.mark.parametrize(
    ('dispatcher', 'axes'),
    [
        ('indexed', AXES[0]),
        pytest.param('indexed', AXES[1], marks=pytest.mark.long),
        ('grouped', AXES[0]),
        pytest.param('grouped', AXES[1], marks=pytest.mark.long),
    ],
)
def test_a_device_multiplies_its_own_rows_alone(alone, dispatcher, axes):
    one, expected = alone[dispatcher]
    program, found = compiled(dispatcher, axes)
    chex.assert_trees_all_close(
        jax.device_get(found), jax.device_get(expected), rtol=1e-4, atol=1e-5
    )
    size = lambda p: p.memory_analysis().temp_size_in_bytes
    # The weights' gradient, which is as large on each, and what is a row's.
    assert size(program) < size(one) / 3
    if dispatcher == 'indexed':  # The products of kernels are not counted.
        flops = lambda p: p.cost_analysis()['flops']
        assert flops(program) < 1.1 * flops(one) / 8


def test_groups_that_do_not_divide():
    # The compiler splits them as it can; the values are the same.
    _, found = compiled('grouped', {'data': 8}, num_groups=4)
    _, expected = compiled('grouped', None, num_groups=4)
    chex.assert_trees_all_close(
        jax.device_get(found), jax.device_get(expected), rtol=1e-4, atol=1e-5
    )
