"""The least memory of a run: what is certain, and never more."""

import math

import jax
import pytest

from moe.command_line import load_config
from moe.config import ConfigError
from moe.parallel import MeshConfig, make_mesh
from moe.training import memory
from moe.training.step import init_state, jit_train_step
from moe.workloads import registry
from tests import tiny

GIB = 2**30


def one_device():
    return make_mesh(MeshConfig(), jax.devices()[:1])


def least(changes=None, mesh=None):
    config = tiny.parsed(changes)
    workload = config.make_workload()
    return memory.least_memory(config, workload, mesh or one_device())


def test_terms():
    # B=8 rows of S=16 targets, L=2 layers, D=16, V=256, float32.
    found = least()
    assert found['batch'] == 8 * 17
    assert found['activations'] == 8 * 2 * 16 * 16 * 4
    assert found['logits'] == 8 * 16 * 256 * 4
    # Adam has two moments, two counts, and no more.
    state = 2 * found['parameters']
    assert state <= found['optimizer state'] <= state + 100
    # Half of it with bfloat16, a fourth of that with microbatches.
    changes = {'model.dtype': 'bfloat16', 'optimizer.accumulation': 4}
    assert least(changes)['logits'] == found['logits'] // 8
    assert least(changes)['batch'] == found['batch']


def test_a_device_of_several_has_its_share():
    alone = least()
    mesh = make_mesh(MeshConfig(expert=4, data=2))
    shared = least({'mesh.expert': 4}, mesh)
    assert shared['logits'] == alone['logits'] // 8
    # E=4 experts of 3 matrices 16x16 in each of 2 layers: one is left.
    experts = 2 * 4 * 3 * 16 * 16 * 4
    assert alone['parameters'] - shared['parameters'] == experts * 3 // 4


def test_what_is_not_there_at_once():
    terms = {'parameters': 8, 'optimizer state': 16, 'gradients': 8}
    # Gradients are whole when the forward pass's arrays are gone.
    assert memory.least_peak({**terms, 'batch': 3, 'logits': 4}) == 24 + 8
    assert memory.least_peak({**terms, 'batch': 3, 'logits': 6}) == 24 + 9


@pytest.mark.parametrize(
    ('changes', 'there', 'line'),
    [
        # 10**9 rows of L * S * D * 4 = 2048 bytes, and V * S * 4 = 16384, and
        # of 17 tokens: 18,449e9 bytes.
        (
            {'data.batch_size': 10**9},
            GIB,
            'config.data.batch_size = 1000000000: must be smaller: a device '
            'needs at least 17,18',
        ),
        ({'data.batch_size': 10**9}, GIB, '15,258.8 of them for logits'),
        # 10**8 experts of 3 * 16 * 16, a gate of 16, in 2 layers: 1568e8
        # parameters, whose moments are 8 bytes each.
        (
            {'model.moe.num_experts': 10**8},
            16 * GIB,
            "config.model = '156,800,",
        ),
        (
            {'model.moe.num_experts': 10**8},
            16 * GIB,
            '1,168.3 of them for optimizer state, and has 16.0',
        ),
    ],
)
def test_what_cannot_fit_is_refused(monkeypatch, changes, there, line):
    monkeypatch.setattr(memory, 'memory_of', lambda device: there)
    config = tiny.parsed(changes)
    with pytest.raises(ConfigError) as error:
        memory.check_memory(config, config.make_workload(), one_device())
    assert line in str(error.value)


@pytest.mark.parametrize('there', [None, 100 * GIB])
def test_what_may_fit_is_not_refused(monkeypatch, there):
    monkeypatch.setattr(memory, 'memory_of', lambda device: there)
    config = tiny.parsed()
    memory.check_memory(config, config.make_workload(), one_device())


def test_memory_of_a_device():
    class Device:
        platform = 'gpu'

        def memory_stats(self):
            return {'bytes_limit': 123}

    assert memory.memory_of(Device()) == 123
    cpu = jax.devices()[0]  # a share of what the machine has free
    assert 2**20 < memory.memory_of(cpu) * 8 < 2**50


CONFIGS = {
    'lm.py': ('quickstart', 'dense', 'switch', 'top2', 'dropless'),
    'vision.py': ('vmoe', 'expert_choice', 'soft', 'dense'),
    'multitask.py': ('mmoe,synthetic', 'ple,synthetic'),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    'source', [f'configs/{f}:{v}' for f, vs in CONFIGS.items() for v in vs]
)
def test_state_is_exactly_that_of_the_run(source):
    config = registry.read_config(load_config(source))
    workload = config.make_workload()
    if 'multitask' in source:
        workload.load_data()
    found = memory.least_memory(config, workload, one_device())
    state = jax.eval_shape(lambda: init_state(config, workload=workload))
    size = lambda tree: sum(
        math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )
    assert found['parameters'] == size(state.params)
    assert found['optimizer state'] == size(state.opt_state)


@pytest.mark.slow
def test_it_is_at_most_what_the_compiler_needs():
    # Long sequences, so that activations and logits count; all else is
    # computed again.
    changes = {
        'model.remat': 'full',
        'data.seq_len': 256,
        'data.batch_size': 16,
    }
    config = tiny.parsed(changes)
    workload, mesh = config.make_workload(), one_device()
    found = memory.least_memory(config, workload, mesh)
    with jax.set_mesh(mesh):
        state = jax.eval_shape(lambda: init_state(config, workload=workload))
        places = jax.tree.map(
            lambda _: jax.sharding.NamedSharding(mesh, jax.P()), state
        )
        rows = jax.ShapeDtypeStruct((16, 257), 'uint8')
        step = jit_train_step(mesh, config, workload, places)
        account = step.lower(state, rows).compile().memory_analysis()
    need = account.argument_size_in_bytes + account.temp_size_in_bytes
    assert found['activations'] + found['logits'] > found['gradients']
    assert memory.least_peak(found) <= need
