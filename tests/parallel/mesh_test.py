"""The mesh: sizes, errors, and where everything lives on it."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from moe.config import ConfigError
from moe.ops.attention import xla
from moe.parallel import (
    MeshConfig,
    batch_sharding,
    global_batch,
    host_of,
    make_mesh,
    over_heads,
    parameter_shardings,
    replicated,
    split_batch,
)
from moe.parallel.mesh import AXES, EXPERT_AXES
from moe.parameters import Parameter
from moe.training.step import init_state, make_train_step
from tests import tiny

pytestmark = pytest.mark.slow

ONE = MeshConfig(replica=1, data=1, fsdp=1, expert=1, tensor=1)


class Device:
    """A device as far as a mesh asks."""

    platform = device_kind = 'cpu'
    client = None

    def __init__(self, index, process):
        self.id, self.process_index = index, process


def mesh_of(shape, processes):
    """A mesh of these sizes, whose devices are of these processes."""
    devices = [Device(i, process) for i, process in enumerate(processes)]
    return Mesh(np.array(devices).reshape(shape), AXES)


# Sizes along replica, data, fsdp, expert, tensor; the process of each device
# in turn; the share of each process.
@pytest.mark.parametrize(
    ('shape', 'processes', 'shares'),
    [
        ((1, 8, 1, 1, 1), [0, 0, 0, 0, 1, 1, 1, 1], [0, 1]),
        ((1, 1, 2, 4, 1), [0, 0, 1, 1, 2, 2, 3, 3], [0, 1, 2, 3]),
        # The last process has the first rows.
        ((2, 4, 1, 1, 1), [1, 1, 1, 1, 0, 0, 0, 0], [1, 0]),
        # Rows that alternate.
        ((1, 4, 1, 1, 1), [0, 1, 0, 1], [0, 1]),
        # Two processes to each row: along `tensor` they bring the same.
        ((1, 2, 1, 1, 4), [0, 0, 1, 1, 2, 2, 3, 3], [0, 0, 1, 1]),
        ((1, 1, 1, 1, 4), [0, 0, 1, 1], [0, 0]),
    ],
)
def test_shares_of_the_processes(monkeypatch, shape, processes, shares):
    mesh = mesh_of(shape, processes)
    for process, share in enumerate(shares):
        monkeypatch.setattr(jax, 'process_index', lambda p=process: p)
        assert host_of(mesh) == (share, len(set(shares)))


@pytest.mark.parametrize(
    'processes',
    [
        # The first row of both, the others of one; more rows of one.
        [0, 1, 0, 0, 0, 0, 1, 1],
        [0, 0, 0, 0, 0, 0, 1, 1],
    ],
)
def test_rows_that_processes_cannot_share(processes):
    with pytest.raises(ConfigError) as caught:
        host_of(mesh_of((1, 4, 1, 1, 2), processes))
    assert caught.value.field == 'config.mesh'


def test_on_all():
    # What is split over the devices is whole on each of them, afterwards.
    mesh = make_mesh(sizes(data=8))
    rows = np.arange(8.0)
    with jax.set_mesh(mesh):
        split = jax.device_put(rows, batch_sharding(mesh))
        found = jax.jit(lambda x: replicated({'y': 2 * x}))(split)['y']
    assert not split.sharding.is_fully_replicated
    assert found.sharding.is_fully_replicated
    for shard in found.addressable_shards:
        np.testing.assert_array_equal(shard.data, 2 * rows)
    # Without a mesh nothing happens.
    assert replicated(rows) is rows


def sizes(**changes):
    return dataclasses.replace(ONE, **changes)


# Eight devices.
@pytest.mark.parametrize(
    ('changes', 'shape'),
    [
        ({'data': -1}, (1, 8, 1, 1, 1)),
        ({'data': 8}, (1, 8, 1, 1, 1)),
        ({'data': -1, 'fsdp': 2, 'expert': 2}, (1, 2, 2, 2, 1)),
        ({'data': -1, 'tensor': 8}, (1, 1, 1, 1, 8)),
        ({'replica': 2, 'data': 2, 'tensor': 2}, (2, 2, 1, 1, 2)),
    ],
    ids=str,
)
def test_sizes(changes, shape):
    mesh = make_mesh(sizes(**changes))
    axes = ('replica', 'data', 'fsdp', 'expert', 'tensor')
    assert tuple(mesh.shape.items()) == tuple(zip(axes, shape, strict=True))
    assert set(mesh.axis_types) == {AxisType.Auto}
    devices = {d.id for d in mesh.devices.flatten()}
    assert devices == {d.id for d in jax.devices()}


@pytest.mark.parametrize(
    'changes',
    [
        {'data': 1},
        {'data': 4},
        {'data': 16},
        {'data': -1, 'fsdp': 3},
        {'data': -1, 'tensor': 16},
        {'data': 8, 'expert': 2},
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_the_devices(changes):
    with pytest.raises(ConfigError) as caught:
        make_mesh(sizes(**changes))
    message = str(caught.value)
    assert message.startswith('config.mesh = ')
    assert 'number of devices (8)' in message
    assert '\n' not in message


def test_no_devices_along_an_axis():
    with pytest.raises(ConfigError, match=r'^data = 0: must be -1 or at '):
        sizes(data=0)


def test_rows_of_a_batch_are_split_over_all_but_tensor():
    mesh = make_mesh(sizes(data=2, expert=2, tensor=2))
    rows = np.arange(8, dtype=np.uint8)[:, None]
    batch = jax.device_put(rows, batch_sharding(mesh))
    found = {}
    for shard in batch.addressable_shards:
        part = tuple(np.asarray(shard.data)[:, 0].tolist())
        found[part] = found.get(part, 0) + 1
    # Four shares of two rows, each on the two devices along `tensor`.
    assert found == {(0, 1): 2, (2, 3): 2, (4, 5): 2, (6, 7): 2}


def specs(config, mesh):
    """Spec of every leaf of a train state: of its parameters, of the rest."""
    workload = config.make_workload()
    state = jax.eval_shape(lambda: init_state(config, workload=workload))
    found = jax.tree_util.tree_leaves_with_path(
        parameter_shardings(mesh, state, workload.parameters)
    )
    trees = ('.params', '.opt_state')
    return [
        {
            '/'.join(str(k.key) for k in path if hasattr(k, 'key')): s.spec
            for path, s in found
            if jax.tree_util.keystr(path).startswith(tree)
        }
        for tree in trees
    ]


STACK = 'stack/layers'
PLACES = {
    'embedding': P(None, 'fsdp'),
    'head': P('fsdp', None),
    'norm/scale': P(None),
    f'{STACK}/block_0/attention/query': P(None, 'fsdp', 'tensor', None),
    f'{STACK}/block_0/attention/key': P(None, 'fsdp', 'tensor', None),
    f'{STACK}/block_0/attention/value': P(None, 'fsdp', 'tensor', None),
    f'{STACK}/block_0/attention/out': P(None, 'tensor', None, 'fsdp'),
    f'{STACK}/block_0/attention_norm/scale': P(None, None),
    f'{STACK}/block_1/moe/router': P(None, None, None),
    f'{STACK}/block_1/moe/experts/up': P(None, 'expert', 'fsdp', 'tensor'),
    f'{STACK}/block_1/moe/experts/gate': P(None, 'expert', 'fsdp', 'tensor'),
    f'{STACK}/block_1/moe/experts/down': P(None, 'expert', 'tensor', 'fsdp'),
    f'{STACK}/block_1/moe/experts/up_bias': P(None, 'expert', None),
}
MIXED = tiny.parsed(
    {
        'model.num_layers': 4,
        'model.moe_every': 2,
        'model.moe.experts.use_bias': True,
    }
)


def test_a_batch_of_rows_is_placed():
    sharding = batch_sharding(make_mesh(sizes(data=2, expert=2, tensor=2)))
    batch = {'a': np.arange(8), 'b': np.arange(16.0).reshape(4, 4)}
    found = global_batch(sharding, batch)
    for name, rows in batch.items():
        np.testing.assert_array_equal(found[name], rows)
        assert found[name].sharding == sharding


def test_places_of_the_parameters():
    # Two repetitions of a dense and a mixture block: the repetitions, the
    # first axis of everything in the stack, are never split.
    mesh = make_mesh(sizes(fsdp=2, expert=2, tensor=2))
    params, moments = specs(MIXED, mesh)
    for name, spec in PLACES.items():
        assert params[name] == spec, name
        # The optimizer's moments live with their parameters.
        assert moments[name] == spec, name


@pytest.mark.parametrize(
    ('name', 'spec'),
    [
        ('up', P(None, 'fsdp', 'tensor')),
        ('gate', P(None, 'fsdp', 'tensor')),
        ('down', P(None, 'tensor', 'fsdp')),
    ],
)
def test_places_of_a_dense_layer(name, spec):
    # It has no experts to spread: its repetitions are not split either.
    mesh = make_mesh(sizes(fsdp=2, expert=2, tensor=2))
    params, _ = specs(MIXED, mesh)
    assert params[f'{STACK}/block_0/mlp/{name}'] == spec


def test_what_an_axis_does_not_divide_is_not_split():
    # Two heads over four devices, six experts over four, widths of 16.
    mesh = make_mesh(sizes(expert=4, tensor=2))
    config = tiny.parsed({'model.moe.num_experts': 8})
    params, _ = specs(config, mesh)
    up = f'{STACK}/block_0/moe/experts/up'
    # An axis of size 1 may be named: it splits nothing.
    assert params[up] == P(None, 'expert', 'fsdp', 'tensor')
    wide = make_mesh(sizes(tensor=8))
    params, _ = specs(config, wide)
    assert params[f'{STACK}/block_0/attention/query'][2] is None
    assert params[up][3] == 'tensor'
    assert place_of((6, 16, 12), wide).spec == P('expert', 'fsdp', None)
    assert place_of((6, 16, 12), mesh).spec == P(None, 'fsdp', 'tensor')


def test_places_of_factored_moments():
    # All axes of their parameter but one, which Adafactor takes the mean over.
    mesh = make_mesh(sizes(fsdp=2, expert=2, tensor=2))
    made = Parameter((3, 4, 16, 8), (None, 'expert', 'embed', 'hidden'), True)
    float32 = lambda *shape: jax.ShapeDtypeStruct(shape, np.float32)
    moments = {
        'v_row': {'up': float32(3, 4, 16)},
        'v_col': {'up': float32(3, 4, 8)},
        'v': {'up': float32(1)},
        'count': float32(),
    }
    found = parameter_shardings(mesh, moments, {'up': made})
    assert found['v_row']['up'].spec == P(None, 'expert', 'fsdp')
    assert found['v_col']['up'].spec == P(None, 'expert', 'tensor')
    assert found['v']['up'].spec == found['count'].spec == P()


def place_of(shape, mesh, *expert_axes):
    """Where the matrices of experts of this shape [E, D, F] are."""
    made = Parameter(shape, ('expert', 'embed', 'hidden'), decay=True)
    tree = {'up': jax.ShapeDtypeStruct(shape, np.float32)}
    found = parameter_shardings(mesh, tree, {'up': made}, *expert_axes)
    return found['up']


def test_places_of_experts_on_two_levels():
    # Along the fast axis first; the 4 devices of both divide 8 and not 6.
    mesh = make_mesh(sizes(replica=2, fsdp=2, expert=2))
    up = place_of((8, 16, 12), mesh, EXPERT_AXES)
    assert up.spec == P(('expert', 'replica'), 'fsdp', 'tensor')
    assert up.shard_shape((8, 16, 12)) == (2, 8, 12)
    # On the first host experts 0 and 1, 4 and 5; on the other what is between.
    grid = mesh.devices.reshape(2, 2, 2)  # replica, fsdp, expert
    first = {
        device: where[0].start or 0
        for device, where in up.devices_indices_map((8, 16, 12)).items()
    }
    assert [first[d] for d in grid[0, 0]] == [0, 4]
    assert [first[d] for d in grid[1, 0]] == [2, 6]
    odd = place_of((6, 16, 12), mesh, EXPERT_AXES)
    assert odd.spec == P(None, 'fsdp', 'tensor')


def test_activations_stay_split_as_the_batch():
    # Rows of 8 over four of eight devices' shares; the width, which a product
    # with a matrix split over fsdp would split, stays whole.
    mesh = make_mesh(sizes(data=2, fsdp=2, tensor=2))
    x = np.ones((8, 4), np.float32)
    with jax.set_mesh(mesh):
        pinned = jax.jit(lambda x: split_batch(2 * x))(x)
        assert pinned.sharding.is_equivalent_to(batch_sharding(mesh), 2)
        # Six rows do not divide: left alone, as without a mesh.
        odd = jax.jit(lambda x: split_batch(2 * x))(x[:6])
        np.testing.assert_array_equal(odd, 2 * x[:6])
    assert split_batch(x) is x


def test_every_block_keeps_its_batch_split():
    # Before the mixture and in front of the head too.
    config = tiny.parsed()
    mesh = make_mesh(sizes(data=4, fsdp=2))
    with jax.set_mesh(mesh):
        state = jax.eval_shape(lambda: init_state(config))
        batch = jax.ShapeDtypeStruct((8, 17), np.uint8)
        lowered = jax.jit(make_train_step(config)).lower(state, batch)
    pins = lowered.as_text().count('sdy.sharding_constraint')
    assert pins >= 4


@pytest.mark.parametrize('kv_heads', [2, 1])
def test_attention_runs_where_its_heads_are(kv_heads):
    # Four shares of eight sequences; two of the key heads, if there are two,
    # and of the sinks.
    mesh = make_mesh(sizes(data=2, fsdp=2, tensor=2))
    rng = np.random.default_rng(0)
    heads = (4, kv_heads, kv_heads)
    inputs = [rng.standard_normal((8, 6, n, 4), np.float32) for n in heads]
    sinks = np.float32([-1, 0, 1, 2])
    shapes = []

    def attend(*inputs):
        shapes.append([None if x is None else x.shape for x in inputs])
        return xla(*inputs, is_causal=True)

    for given in (inputs, [*inputs, None, sinks]):
        desired = attend(*given)
        with jax.set_mesh(mesh):
            actual = jax.jit(over_heads(attend))(*given)
        np.testing.assert_allclose(actual, desired, 0, 1e-6)
    ways = kv_heads
    local = [(2, 6, n // ways, 4) for n in heads]
    assert shapes[-1] == [*local, None, (4 // ways,)]
    # Without a mesh it is the function itself.
    assert over_heads(attend) is attend
