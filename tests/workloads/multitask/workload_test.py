"""Several tasks at once: losses, terms, gradients and results."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import multitask
from moe.config import ConfigError
from moe.training.evaluation import EvalBatch, metrics_of
from moe.training.gradient import make_gradient
from moe.training.step import init_state, make_train_step
from moe.training.trainer import logged
from moe.training.workload import Mean, Predictions
from moe.workloads.multitask.targets import Regression
from tests import tiny

pytestmark = pytest.mark.slow

SMALL = {
    'seed': 0,
    'steps': 4,
    'model.expert.widths': (6,),
    'model.towers.widths': (4,),
    'data.source.num_features': 5,
    'data.source.num_rows': 32,
    'data.source.num_val_rows': 20,
    'data.batch_size': 8,
    'log_every': 1,
    'eval_every': 2,
    'checkpoint_every': 2,
}


def plain(model='mmoe', **changes):
    config = multitask.get_config(f'{model},synthetic')
    return tiny.changed(config, {**SMALL, **changes})


@functools.lru_cache
def example(**changes):
    config = tiny.check(plain(**changes))
    workload = config.make_workload()
    batch = next(workload.train_batches(workload.load_data(), 0, 1))
    return config, workload, batch


def test_means_are_over_the_labels_there_are():
    # Task 0 has labels in rows 0 to 3, of which row 3 is padding; task 1 none.
    config, workload, batch = example()
    mask = np.zeros((8, 2), bool)
    mask[:4, 0] = True
    valid = np.arange(8) != 3
    state = init_state(config)
    out = workload.forward(
        state.variables, {**batch, 'mask': mask, 'valid': valid}
    )
    logits, _ = workload.model.apply(state.variables, batch)
    logits = np.asarray(logits)[..., 0]
    errors = np.square(logits[:3, 0] - batch['label'][:3, 0])
    first, second = out.means['loss/task_0'], out.means['loss/task_1']
    np.testing.assert_allclose(first.sum, np.sum(errors), rtol=1e-5)
    np.testing.assert_allclose(first.value, np.mean(errors), rtol=1e-5)
    assert (first.count, second.sum, second.count) == (3, 0, 0)
    assert (second.term, np.isnan(second.value)) == (0, True)
    assert out.predictions['task_1'].logits.shape == (8, 1)
    np.testing.assert_array_equal(
        out.predictions['task_0'].mask, [1, 1, 1, 0, 0, 0, 0, 0]
    )


def test_a_batch_without_a_label_of_a_task():
    config, workload, batch = example(**{'optimizer.weight_decay': 0.0})
    mask = np.array(batch['mask'])
    mask[:, 1] = False
    state = jax.jit(lambda: init_state(config))()
    step = jax.jit(make_train_step(config))
    after, metrics = step(state, {**batch, 'mask': mask})
    # Its loss has no data, and is in no line of metrics.
    assert metrics['count/train/loss/task_1'] == 0
    values, _ = logged(workload, jax.device_get(metrics), None)
    assert 'train/loss/task_1' not in values
    assert values['train/loss'] == values['train/loss/task_0'] > 0
    # Its tower has no gradient, and without momentum or decay does not move.
    towers = lambda state: jax.tree.leaves(state.params['towers'])
    for old, new in zip(towers(state), towers(after), strict=True):
        np.testing.assert_array_equal(old[1], new[1])
        assert np.max(np.abs(old[0] - new[0])) > 0
    # Labels outside the mask are not looked at.
    label = np.array(batch['label'])
    label[:, 1] = np.nan
    other, _ = step(state, {**batch, 'mask': mask, 'label': label})
    leaves = map(jax.tree.leaves, (after.params, other.params))
    for a, b in zip(*leaves, strict=True):
        np.testing.assert_array_equal(a, b)
    # With the momentum of a step before, it moves on.
    before, _ = step(state, batch)
    after, _ = step(before, {**batch, 'mask': mask})
    moves = [
        np.max(np.abs(old[1] - new[1]))
        for old, new in zip(towers(before), towers(after), strict=True)
    ]
    assert max(moves) > 1e-6
    # Without any label nothing but the penalties is left.
    _, metrics = step(state, {**batch, 'mask': np.zeros_like(mask)})
    values, _ = logged(workload, jax.device_get(metrics), None)
    assert 'train/loss' not in values
    assert values['train/objective'] == values['train/regularization'] == 0


def gradients(config, workload, batch, state):
    """Of each task's mean loss, by itself: a list of trees."""

    def loss(params, i):
        variables = {'params': params, **state.model_state}
        out = workload.forward(
            variables, batch, train=True, rngs={'router': state.key}
        )
        return out.means[f'loss/task_{i}'].term

    return [jax.grad(loss)(state.params, i) for i in range(2)]


def moved(config, workload, batch, state):
    """The gradient that the step's optimizer is given, and the state."""
    grads, _, _, model_state = make_gradient(config, workload)(
        state.params, state.model_state, batch, state.key
    )
    return grads, model_state


def flat(tree, *names):
    return np.concatenate(
        [np.ravel(x) for n in names for x in jax.tree.leaves(tree[n])]
    )


def close(actual, desired):
    np.testing.assert_allclose(actual, desired, rtol=1e-4, atol=1e-5)


def test_static_weights():
    config, workload, batch = example(**{'balance.weights': (3.0, 0.5)})
    state = init_state(config)
    first, second = gradients(config, workload, batch, state)
    grads, _ = moved(config, workload, batch, state)
    for name in ('mixture', 'towers'):
        desired = 3 * flat(first, name) + 0.5 * flat(second, name)
        close(flat(grads, name), desired)


def test_pcgrad_projects_the_shared_part_alone():
    config, workload, batch = example(**{'balance.pcgrad': True})
    # Towers alike and opposed labels: the tasks pull the experts apart.
    label = np.array(batch['label'])
    label[:, 1] = -label[:, 0]
    batch = {**batch, 'label': label}
    state = init_state(config)
    alike = jax.tree.map(lambda x: x.at[1].set(x[0]), state.params['towers'])
    state = state._replace(params={**state.params, 'towers': alike})
    first, second = gradients(config, workload, batch, state)
    grads, _ = moved(config, workload, batch, state)
    close(flat(grads, 'towers'), flat(first, 'towers') + flat(second, 'towers'))
    a, b = flat(first, 'mixture'), flat(second, 'mixture')
    assert a @ b < 0
    desired = a - a @ b / (b @ b) * b + b - a @ b / (a @ a) * a
    close(flat(grads, 'mixture'), desired)


def test_gradnorm_weighs_and_moves_its_weights():
    config, workload, batch = example(**{'balance.name': 'gradnorm'})
    state = init_state(config)
    start = {'weights': jnp.array([1.5, 0.5]), 'initial': jnp.array([1.0, 1.0])}
    state = state._replace(model_state={'gradnorm': start})
    first, second = gradients(config, workload, batch, state)
    grads, model_state = moved(config, workload, batch, state)
    for name in ('mixture', 'towers'):
        desired = 1.5 * flat(first, name) + 0.5 * flat(second, name)
        close(flat(grads, name), desired)
    # By hand: the norms of the shared gradients, and the pace.
    logits = workload.model.apply(state.variables, batch)[0][..., 0]
    losses = np.mean(np.square(np.asarray(logits) - batch['label']), axis=0)
    norms = np.array(
        [np.linalg.norm(flat(g, 'mixture')) for g in (first, second)]
    )
    size = np.array([1.5, 0.5]) * norms
    target = np.mean(size) * (losses / np.mean(losses)) ** 1.5
    weights = np.array([1.5, 0.5]) - 0.025 * np.sign(size - target) * norms
    weights = np.maximum(weights, 1e-3)
    close(model_state['gradnorm']['weights'], 2 * weights / np.sum(weights))


def test_uncertainty_is_learned():
    config, workload, batch = example(**{'balance.name': 'uncertainty'})
    state = init_state(config)
    np.testing.assert_array_equal(state.params['log_variance'], [0, 0])
    first, second = gradients(config, workload, batch, state)
    grads, _ = moved(config, workload, batch, state)
    # At s = 0: half of each squared error, and (1 - L) / 2 for s.
    close(
        flat(grads, 'mixture'),
        (flat(first, 'mixture') + flat(second, 'mixture')) / 2,
    )
    means = workload.forward(state.variables, batch).means
    losses = [float(means[f'loss/task_{i}'].sum) / 8 for i in range(2)]
    close(grads['log_variance'], (1 - np.array(losses)) / 2)
    told = workload.step_metrics({'log_variance': np.log([2.0, 0.5])}, {})
    assert list(told) == ['train/weight/task_0', 'train/weight/task_1']
    np.testing.assert_allclose([*told.values()], [0.5, 2.0], rtol=1e-6)


def test_step_with_everything_at_once_keeps_its_shapes():
    changes = {
        'balance.name': 'gradnorm',
        'balance.pcgrad': True,
        'optimizer.accumulation': 2,
        'model.expert.batch_norm.momentum': 0.99,
    }
    config, _, batch = example(**changes)
    state = jax.jit(lambda: init_state(config))()
    step = jax.jit(make_train_step(config))
    with tiny.compilations() as compiled:
        for _ in range(3):
            state, metrics = step(state, batch)
    assert compiled.count('train_step') == 1
    assert np.isfinite(metrics['train/loss'])
    weights = state.model_state['gradnorm']['weights']
    np.testing.assert_allclose(np.sum(weights), 2, rtol=1e-5)
    told = [metrics[f'train/weight/task_{i}'] for i in range(2)]
    np.testing.assert_array_equal(told, weights)
    average = jax.tree.leaves(state.model_state['batch_stats'])
    assert all(np.all(np.isfinite(x)) for x in average)


def test_metrics_of_a_label_that_is_transformed():
    # y = 10 + 4 z: errors of 1/2 and -1 in z are of 2 and -4 in y. The loss is
    # that of z, and of task 1 an error of 3.
    workload = copy.copy(example()[1])
    scaled = Regression(standardize=True).of_task(
        'task_0', label_mean=10.0, label_deviation=4.0
    )
    workload.targets = (scaled, workload.targets[1])
    z, label, every = np.array([[0.5], [-1]]), np.zeros(2), np.ones(2, bool)
    predictions = {
        'task_0': Predictions(z, label, every),
        'task_1': Predictions(z * 0 + 3, label, every),
    }
    found = metrics_of(workload, [EvalBatch({}, {'predictions': predictions})])
    assert found == {
        'loss': (0.25 + 1) / 2 + 9,
        'task_0/mse': (4 + 16) / 2,
        'task_0/scaled_mse': (0.25 + 1) / 2,
        'task_1/mse': 9,
    }
    made = workload.predictions(np.stack([z, z], axis=1))
    assert made == {'task_0': [12.0, 6.0], 'task_1': [0.5, -1.0]}


def test_metrics_are_over_the_labels_there_are():
    # Two batches, the last row padding. Task 0: errors 1 and 3, and one
    # without a label; task 1: 0, 2 and 2.
    workload = example()[1]

    def batch(logits, label, mask):
        columns = zip(
            *(np.array(x).T for x in (logits, label, mask)), strict=True
        )
        predictions = {
            f'task_{i}': Predictions(z[:, None], y, m)
            for i, (z, y, m) in enumerate(columns)
        }
        means = {'loss/task_0': Mean(9.0, 2.0), 'task_1/mine': Mean(3.0, 4.0)}
        return EvalBatch(means, {'predictions': predictions})

    yes, no = True, False
    batches = [
        batch([[1.0, 1], [3, 2]], [[0.0, 1], [0, 0]], [[yes, yes], [yes, yes]]),
        batch([[7.0, 2], [9, 9]], [[0.0, 0], [0, 0]], [[no, yes], [no, no]]),
    ]
    assert metrics_of(workload, batches) == {
        'loss': 5 + 8 / 3,
        'task_0/mse': 5.0,
        'task_1/mse': 8 / 3,
        'task_1/mine': 0.75,
    }
    assert workload.primary_metrics == ('loss', 'task_0/mse', 'task_1/mse')
    # Without a label of task 1 the loss is that of task 0; without any there is
    # none, which would be the best possible if it were 0.
    first, none = [[yes, no], [yes, no]], [[no, no], [no, no]]
    ones = [[1.0, 1], [3, 2]], [[0.0, 1], [0, 0]]
    found = metrics_of(workload, [batch(*ones, first)])
    assert found == {'loss': 5, 'task_0/mse': 5, 'task_1/mine': 0.75}
    assert metrics_of(workload, [batch(*ones, none)]) == {'task_1/mine': 0.75}


@pytest.mark.parametrize(
    ('changes', 'field'),
    [
        ({'balance.weights': (1.0,)}, 'config.balance.weights'),
        ({'losses': {'l2': 1.0}}, 'config.losses.l2'),
        ({'model.expert.renorm': {}}, 'config.model.expert.renorm'),
        (
            {'model.expert.kernel_penalty': {'l2': 1.0}, 'losses': {}},
            'config.losses.regularization',
        ),
        (
            {'model.expert.each': ({'widths': (3,)},)},
            'config.model.expert.each[0].widths',
        ),
        ({'model.expert.each': ({}, {})}, 'config.model.expert.each'),
        ({'model.towers.each': ({},)}, 'config.model.towers.each'),
        (
            {'model.mixture': {'name': 'snr_aver', 'networks': ()}},
            'config.model.mixture.networks',
        ),
        (
            {'model.mixture': {'name': 'snr_aver', 'gamma': 0.0}},
            'config.model.mixture.gamma',
        ),
        (
            {'model.mixture': {'name': 'snr_trans', 'zeta': 1.0}},
            'config.model.mixture.zeta',
        ),
        (
            {'model.mixture': {'name': 'snr_trans', 'beta': 0.0}},
            'config.model.mixture.beta',
        ),
        (
            {'model.mixture.gate': {'dropout': 1.0}},
            'config.model.mixture.gate.dropout',
        ),
        (
            {'model.mixture.gate': {'router': {'name': 'top_k', 'k': 9}}},
            'config.model.mixture',
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_what_cannot_be_is_told(changes, field):
    with pytest.raises(ConfigError) as caught:
        tiny.check(plain(**changes)).make_workload()
    assert caught.value.field == field
