"""The gradient over microbatches is that of the whole batch."""

import dataclasses

import jax
import numpy as np
import pytest

from configs import vision
from moe.training.gradient import make_gradient
from moe.training.step import init_state
from tests import tiny
from tests.training.tasks import tasks

ACCUMULATIONS = (1, 2, 8)


def gradient_of(config, workload, batch, state):
    found = jax.jit(make_gradient(config, workload))(
        state.params, state.model_state, batch, jax.random.key(0)
    )
    # All rows of a part are one sequence to gates of tasks, and a penalty of
    # parameters counts once in each part.
    if 'train/loss/task_0' in found[1]:
        for name in ('regularization', 'sequence_balance'):
            del found[1][f'train/{name}'], found[1][f'count/train/{name}']
    return found[0], found[1], found[3]


def close(found, desired):
    """Equal to rounding, relative to the largest entry of each leaf."""
    paths = jax.tree_util.tree_leaves_with_path(desired)
    for a, (path, b) in zip(jax.tree.leaves(found), paths, strict=True):
        scale = max(np.max(np.abs(b), initial=0), 1e-3)
        where = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, atol=3e-5 * scale, err_msg=where)


def rare(batch, count=1):
    """Labels of the second task in the first rows alone."""
    mask = np.array(batch['mask'])
    mask[:, 1] = np.arange(len(mask)) < count
    return {**batch, 'mask': mask}


@pytest.mark.slow
def test_one_label_in_sixteen_rows_counts_fully():
    # A squared error of one row is the whole mean, however the rows are split.
    config, workload, batch = tasks(1)
    batch = rare(batch)
    state = init_state(config)
    logits, _ = workload.model.apply(state.variables, batch)
    error = np.square(np.asarray(logits)[0, 1, 0] - batch['label'][0, 1])
    whole = gradient_of(config, workload, batch, state)
    for accumulation in (1, 4):
        config, workload, _ = tasks(accumulation)
        found = gradient_of(config, workload, batch, state)
        np.testing.assert_allclose(found[1]['train/loss/task_1'], error, 1e-5)
        assert found[1]['count/train/loss/task_1'] == 1
        close(found, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    'balance',
    [{}, {'name': 'uncertainty'}, {'name': 'gradnorm', 'pcgrad': True}],
    ids=lambda b: b.get('name', 'static'),
)
def test_tasks_with_unequal_counts(balance):
    # Task 1 has labels in two of eight microbatches; both pull on the experts.
    changes = {'balance': balance} if balance else {}
    config, workload, batch = tasks(1, **changes)
    batch = rare(batch, 2)
    state = init_state(config)
    whole = gradient_of(config, workload, batch, state)
    for accumulation in ACCUMULATIONS[1:]:
        changes['optimizer.accumulation'] = accumulation
        config, workload, _ = tasks(accumulation, **changes)
        close(gradient_of(config, workload, batch, state), whole)


def language(accumulation, exact):
    balance = 'load_balance' if exact else 'sequence_balance'
    return tiny.parsed(
        {
            'losses': {
                balance: 0.5,
                'router_z': 0.25,
                'load': 0.1 * exact,
            },
            'optimizer.accumulation': accumulation,
            'optimizer.exact_accumulation': exact,
        }
    )


@pytest.mark.slow
@pytest.mark.parametrize('exact', [False, True])
def test_language_with_uneven_masks(exact):
    # Targets of each sequence: 16, 1, 7 and so on. The balance loss by
    # sequence is a mean; that over all tokens a product of means.
    draw = np.random.default_rng(0)
    tokens = draw.integers(0, 256, (8, 17), np.uint8)
    mask = np.arange(16) < np.array([16, 1, 7, 16, 2, 9, 16, 3])[:, None]
    config = language(1, exact)
    state = tiny.state(config)
    desired = None
    for accumulation in ACCUMULATIONS if exact else (1, 8):
        config = language(accumulation, exact)
        found = gradient_of(
            config, config.make_workload(), (tokens, mask), state
        )
        desired = desired or found
        close(found, desired)
    assert found[1]['count/train/loss'] == 70
    assert found[1]['count/moe'] == 140  # of two layers


@pytest.mark.slow
def test_images_with_uneven_masks():
    changes = {
        'model.image_size': 8,
        'model.patch_size': 4,
        'model.d_model': 16,
        'model.num_layers': 2,
        'model.moe.num_experts': 4,
        'model.moe.capacity': 'dropless',
        'losses': {'load_balance': 0.5, 'router_z': 0.25},
        'data.batch_size': 8,
        'optimizer.exact_accumulation': True,
    }
    draw = np.random.default_rng(0)
    desired, state = None, None
    for accumulation in (1, 4):
        changes['optimizer.accumulation'] = accumulation
        config = tiny.check(
            tiny.changed(vision.get_config('vmoe,top_k'), changes)
        )
        shape = (8, 8, 8, config.model.channels)
        batch = {
            'image': draw.normal(size=shape).astype(np.float32),
            'label': np.arange(8) % config.model.num_classes,
            'mask': np.arange(8) < 5,
        }
        draw = np.random.default_rng(0)
        state = state or jax.jit(lambda c=config: init_state(c))()
        found = gradient_of(config, config.make_workload(), batch, state)
        desired = desired or found
        close(found, desired)
    assert found[1]['count/train/accuracy'] == 5


def test_counting_first_costs_no_pass_through_the_model():
    # Nor does counting all sums, if every term is a mean. CV^2 is none.
    changes = {'losses': {'regularization': 1.0, 'importance': 0.1}}
    config, workload, batch = tasks(4, **changes)
    state = init_state(config)

    def products(exact):
        optimizer = dataclasses.replace(
            config.optimizer, exact_accumulation=exact
        )
        given = dataclasses.replace(config, optimizer=optimizer)
        program = jax.jit(make_gradient(given, workload)).lower(
            state.params, state.model_state, batch, jax.random.key(0)
        )
        return program.as_text().count('stablehlo.dot_general')

    one, two = products(False), products(True)
    # Of every product forward there are two more in the pass back.
    assert one < two <= 4 / 3 * one + 1
