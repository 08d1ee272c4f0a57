"""The same training with experts on other devices, by every exchange."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from moe.config import ConfigError
from moe.parallel import batch_sharding, parameter_shardings
from moe.parallel.mesh import AXES
from moe.training.step import make_train_step
from tests import tiny

STEPS = 20
BATCHES = np.random.default_rng(0).integers(0, 9, (STEPS, 8, 17), np.uint8)
# Some assignments drop: C = ceil(16 * 2 * 1 / 4) = 8 slots.
CHANGES = {
    'optimizer.learning_rate': 0.003,
    'model.moe.capacity_factor': 1.0,
    'steps': STEPS,
}


def curve(sizes, **changes):
    """Losses, balance and drops of each step, on a mesh of these sizes."""
    moe = {f'model.moe.{name}': value for name, value in changes.items()}
    config = tiny.parsed(CHANGES | moe)
    mesh = jax.make_mesh(
        sizes,
        AXES,
        axis_types=(AxisType.Auto,) * len(AXES),
        devices=jax.devices()[: np.prod(sizes)],
    )
    with jax.set_mesh(mesh):
        state = tiny.state(config)
        shardings = parameter_shardings(mesh, state)
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
    ('exchange', 'executor', 'sizes'),
    [
        ('all_to_all', 'indexed', (1, 1, 2, 2, 2)),
        ('ragged', 'grouped', (1, 2, 1, 4, 1)),
        ('gather', 'indexed', (2, 1, 1, 4, 1)),
    ],
)
def test_same_curve(alone, exchange, executor, sizes):
    found = curve(sizes, exchange=exchange, executor=executor)
    assert alone[-1, 0] < alone[0, 0] - 0.1
    assert np.all(alone[:, 3:] > 0)
    np.testing.assert_allclose(found[:, :3], alone[:, :3], rtol=1e-4)
    # A rounding may move a token or two of the 512 assignments.
    np.testing.assert_allclose(found[:, 3:], alone[:, 3:], atol=3 / 256)


def test_groups_that_do_not_divide_over_the_devices():
    sizes = {'mesh.data': 1, 'mesh.fsdp': 2, 'mesh.expert': 4}
    changes = {
        'model.moe.exchange': 'gather',
        'model.moe.num_groups': 4,
        **sizes,
    }
    with pytest.raises(ConfigError) as error:
        tiny.parsed(changes)
    assert str(error.value) == (
        'config.model.moe.num_groups = 4: must be a multiple of the 8 devices '
        'that groups are over'
    )
    assert tiny.parsed({**changes, 'model.moe.exchange': 'none'})
    assert tiny.parsed({**changes, 'model.moe.num_groups': 16})
