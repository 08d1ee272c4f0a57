"""The whole model of several tasks, and the names of its statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import multitask
from moe.config import ConfigError
from moe.workloads.multitask.model import gate_metrics
from tests import tiny

pytestmark = pytest.mark.slow

SIZES = {
    'tables': {'city': 4, 'shop': 5},
    'table_of': ('city', 'shop', 'city'),
}
BATCH = {
    'numeric': tiny.numbers((6, 3), 0),
    'categorical': np.random.default_rng(1).integers(0, 4, (6, 3), np.int32),
}


def config(model='mmoe', **changes):
    plain = multitask.get_config(f'{model},synthetic')
    return tiny.check(tiny.changed(plain, changes)).model


def test_one_expert_is_a_tower_over_a_network_over_the_features():
    # What the parts do, written out: relu(x W) of one shared network, and of
    # each task a tower relu(h V) w.
    changes = {'model.expert.widths': (4,), 'model.features.width': 2}
    model = config('shared_bottom', **changes).build(2, 3, **SIZES)
    params = tiny.parameters(model.init, BATCH)
    y, _ = jax.jit(model.apply)({'params': params}, BATCH)
    assert y.shape == (6, 2, 3)
    ids = BATCH['categorical']
    table = np.float64(params['features']['embedding_2'])
    x = np.concatenate(
        [BATCH['numeric'], table[ids[:, 0]], table[4 + ids[:, 1]],
         table[ids[:, 2]]],
        axis=1,
    )  # fmt: skip
    relu = lambda x: np.maximum(x, 0)
    dense = params['mixture']['experts']['dense_0']
    h = relu(x @ np.float64(dense['kernel'][0]) + dense['bias'][0])
    for task in range(2):
        first, last = (params['towers'][f'dense_{i}'] for i in (0, 1))
        z = relu(h @ np.float64(first['kernel'][task]) + first['bias'][task])
        desired = z @ np.float64(last['kernel'][task]) + last['bias'][task]
        np.testing.assert_allclose(y[:, task], desired, rtol=1e-5, atol=1e-5)


def test_padding_changes_nothing():
    changes = {'model.mixture.gate.router': {'name': 'top_k', 'k': 2}}
    model = config(**changes).build(2, 1, **SIZES)
    params = tiny.parameters(model.init, BATCH)
    valid = np.array([1, 1, 1, 1, 0, 0], bool)
    apply = jax.jit(lambda batch: model.apply({'params': params}, batch))
    y, aux = apply({**BATCH, 'valid': valid})
    wild = np.where(valid[:, None], BATCH['numeric'], 1e6).astype(np.float32)
    other, same = apply({**BATCH, 'numeric': wild, 'valid': valid})
    np.testing.assert_array_equal(y[:4], other[:4])
    for a, b in zip(*map(jax.tree.leaves, (aux, same)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_regularisation_is_of_the_experts():
    # Kernels of 2 and biases of 3: .5 * |2| + .25 * 4 of each of 5 * 4 weights
    # of 2 experts, 2 * 9 of each of 4 * 2 biases.
    changes = {
        'model.expert.widths': (4,),
        'model.mixture.num_experts': 2,
        'model.expert.kernel_penalty': {'l1': 0.5, 'l2': 0.25},
        'model.expert.bias_penalty': {'l2': 2.0},
    }
    model = config(**changes).build(2, 1)
    batch = {'numeric': np.ones((3, 5), np.float32)}
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)['params']
    value = lambda path, leaf: jnp.full(
        leaf.shape, 2.0 if path[-1].key == 'kernel' else 3.0
    )
    params = jax.tree_util.tree_map_with_path(value, shapes)
    _, aux = model.apply({'params': params}, batch)
    desired = 40 * (0.5 * 2 + 0.25 * 4) + 8 * 2 * 9
    np.testing.assert_allclose(aux.losses['regularization'], desired, 1e-6)


def test_batch_norm_and_renorm_reach_the_experts():
    for renorm, names in (
        (None, {'mean', 'variance'}),
        ({}, {'mean', 'sd', 'renorm_mean', 'renorm_sd', 'updates'}),
    ):
        changes = {'model.expert.batch_norm': {'renorm': renorm}}
        model = config(**changes).build(2, 1)
        made = jax.eval_shape(model.init, jax.random.key(0), BATCH)
        stats = made['batch_stats']['mixture']['experts']
        assert set(stats['batch_norm_in']) == names


def test_empty_widths_are_refused():
    with pytest.raises(ConfigError, match=r'^config\.model\.expert\.widths = '):
        config(**{'model.expert.widths': ()})


def test_names_of_statistics():
    stats = {
        'gate': np.array([[0.25, 0.75], [1.0, 0.0]]),
        'entropy': np.array([0.5, 0.0]),
        'level_0/gate': np.array([[1.0], [2.0], [3.0]]),
        'level_1/gate': np.array([[4.0]]),
        'level_1/open_routes': np.array(2.5),
        'level_2/gate': np.arange(4.0),
    }
    assert gate_metrics(stats, ['income', 'married']) == {
        'moe/income/gate': [0.25, 0.75],
        'moe/married/gate': [1.0, 0.0],
        'moe/income/entropy': 0.5,
        'moe/married/entropy': 0.0,
        'moe/level_0.income/gate': [1.0],
        'moe/level_0.married/gate': [2.0],
        'moe/level_0.shared/gate': [3.0],
        'moe/level_1.all/gate': [4.0],
        'moe/level_1.all/open_routes': 2.5,
        'moe/level_2.0/gate': 0.0,
        'moe/level_2.1/gate': 1.0,
        'moe/level_2.2/gate': 2.0,
        'moe/level_2.3/gate': 3.0,
    }
