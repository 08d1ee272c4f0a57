"""Arrays of a checkpoint: written on one mesh, read and verified on others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from moe.training.arrays import read_leaf, read_state
from moe.training.record import Damage, read_record
from moe.training.restore import restore
from tests.training import damage


def spread(tree, sizes):
    """A state, or its shapes, split over a mesh of two axes."""
    mesh = jax.make_mesh(sizes, ('a', 'b'))

    def place(leaf):
        return NamedSharding(
            mesh, P('a', 'b') if leaf.shape == (64, 32) else P()
        )

    return jax.tree.map(place, tree)


def state(step):
    found = damage.state(step)
    values = np.random.default_rng(5).standard_normal((64, 32), np.float32)
    return found._replace(params={'wide': jnp.asarray(values)})


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """A checkpoint written on eight devices."""
    folder = tmp_path_factory.mktemp('saved')
    arrays = jax.tree.map(jnp.asarray, state(3))
    with damage.opened(folder) as checkpoints:
        split = jax.device_put(arrays, spread(arrays, (8, 1)))
        checkpoints.save(3, split, {'next_index': 3})
    return folder / 'checkpoints' / '3'


@pytest.mark.parametrize('sizes', [(1, 1), (2, 4)], ids=str)
def test_another_mesh_reads_and_verifies(sizes, saved):
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, state(0)))
    places = spread(shapes, sizes)
    like = jax.tree.map(
        lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p),
        shapes,
        places,
    )
    found = restore(saved, like)
    wide = found.state.params['wide']
    assert wide.sharding == places.params['wide']
    np.testing.assert_array_equal(wide, state(3).params['wide'])
    assert found.position == {'next_index': 3}
    key = jax.random.key_data(found.state.key)
    np.testing.assert_array_equal(key, jax.random.key_data(state(3).key))


def test_the_host_verifies_what_devices_wrote(saved):
    record = read_record(saved)
    for name, leaf in record.leaves.items():
        read_leaf(saved, name, leaf)
    wide = record.leaves['params/wide']
    for wrong, why in (
        (wide._replace(checksum='0' * 16), 'does not have its checksum'),
        (wide._replace(shape=(32, 64)), r'is float32\[64, 32\], not as'),
        (wide._replace(dtype='bfloat16'), 'is float32'),
    ):
        with pytest.raises(Damage, match=f'leaf params/wide {why}'):
            read_leaf(saved, 'params/wide', wrong)


def test_a_leaf_that_is_not_there(saved):
    record = read_record(saved)
    record.leaves['absent'] = record.leaves['step']
    like = {'absent': damage.like().step}
    with pytest.raises(Damage, match='damaged: state is missing'):
        read_state(saved, record, like)
