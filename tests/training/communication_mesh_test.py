"""The same training with experts on other devices, by every communication."""

import jax
import numpy as np
import pytest

from moe.config import ConfigError
from moe.parallel import (
    MeshConfig,
    batch_sharding,
    make_mesh,
    parameter_shardings,
)
from moe.training.step import make_train_step
from tests import tiny

pytestmark = pytest.mark.slow

STEPS = 20
BATCHES = np.random.default_rng(0).integers(0, 9, (STEPS, 8, 17), np.uint8)
# Some assignments drop: C = ceil(16 * 2 * 1 / 4) = 8 slots.
CHANGES = {
    'optimizer.learning_rate': 0.003,
    'model.moe.capacity': {'name': 'factor', 'train': 1.0, 'eval': None},
    'steps': STEPS,
}


def curve(sizes, **changes):
    """Losses, balance and drops of each step, on a mesh of these sizes."""
    moe = {f'model.moe.{name}': value for name, value in changes.items()}
    config = tiny.parsed(CHANGES | moe)
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: np.prod(sizes)])
    with jax.set_mesh(mesh):
        state = tiny.state(config)
        shardings = parameter_shardings(
            mesh, state, config.make_workload().parameters, config.expert_axes
        )
        state = jax.device_put(state, shardings)
        step = jax.jit(make_train_step(config), out_shardings=(shardings, None))
        found = []
        for batch in BATCHES:
            state, metrics = step(
                state, jax.device_put(batch, batch_sharding(mesh))
            )
            dropped = np.asarray(metrics['moe']['dropped'])
            names = ('train/loss', 'train/load_balance', 'train/grad_norm')
            found.append([*(float(metrics[n]) for n in names), *dropped])
    return np.array(found)


@pytest.fixture(scope='module')
def alone():
    return curve((1, 1, 1, 1, 1))


# Devices along replica, data, fsdp, expert, tensor.
@pytest.mark.parametrize(
    ('name', 'levels', 'dispatcher', 'sizes'),
    [
        ('all_to_all', 1, 'indexed', (1, 1, 2, 2, 2)),
        # A layer's gradients with these: `communication_layer_test`.
        pytest.param(
            *('all_to_all', 2, 'indexed', (2, 1, 2, 2, 1)),
            marks=pytest.mark.long,
        ),
        pytest.param(
            *('ragged', 1, 'grouped', (1, 2, 1, 4, 1)), marks=pytest.mark.long
        ),
        ('ragged', 2, 'grouped', (2, 1, 1, 2, 1)),
        ('gather', 1, 'indexed', (2, 1, 1, 4, 1)),
    ],
)
def test_same_curve(alone, name, levels, dispatcher, sizes):
    communication = {'name': name} | ({'levels': 2} if levels == 2 else {})
    found = curve(sizes, communication=communication, dispatcher=dispatcher)
    assert alone[-1, 0] < alone[0, 0] - 0.1
    assert np.all(alone[:, 3:] > 0)
    np.testing.assert_allclose(found[:, :3], alone[:, :3], rtol=1e-4)
    # A rounding may move a token or two of the 512 assignments.
    np.testing.assert_allclose(found[:, 3:], alone[:, 3:], atol=3 / 256)


def test_what_finds_no_place_is_in_the_logs():
    # Two layers on 2 rows of 4 devices with no larger buffers than balanced
    # routers need, of which new ones fall short.
    config = tiny.parsed(
        {
            'model.moe.communication': {
                'name': 'ragged',
                'buffer_factor': 1.0,
            },
            'model.moe.dispatcher': 'grouped',
        }
    )
    mesh = make_mesh(MeshConfig(1, 2, 1, 4, 1))
    workload = config.make_workload()
    with jax.set_mesh(mesh):
        state = tiny.state(config)
        places = parameter_shardings(mesh, state, workload.parameters)
        _, metrics = jax.jit(make_train_step(config))(
            jax.device_put(state, places),
            jax.device_put(BATCHES[0], batch_sharding(mesh)),
        )
    logged = workload.layer_metrics(jax.device_get(metrics['moe']))
    for layer in ('moe/layer_0/', 'moe/layer_1/'):
        dropped = logged[layer + 'dropped']
        assert logged[layer + 'dropped_capacity'] == pytest.approx(0, abs=1e-6)
        assert logged[layer + 'dropped_buffer'] == pytest.approx(dropped)
        assert 0 < dropped < 0.5
        for side in ('sender', 'receiver'):
            parts = logged[f'{layer}dropped_buffer_by_{side}']
            assert len(parts) == 4
            assert sum(parts) == pytest.approx(dropped)


def test_groups_that_do_not_divide_over_the_devices():
    sizes = {'mesh.data': 1, 'mesh.fsdp': 2, 'mesh.expert': 4}
    changes = {
        'model.moe.communication': 'gather',
        'model.moe.num_groups': 4,
        **sizes,
    }
    with pytest.raises(ConfigError) as error:
        tiny.parsed(changes)
    assert str(error.value) == (
        'config.model.moe.num_groups = 4: must be a multiple of the 8 devices '
        'that groups are over, each with whole groups'
    )
    assert tiny.parsed({**changes, 'model.moe.communication': 'none'})
    assert tiny.parsed({**changes, 'model.moe.num_groups': 16})
