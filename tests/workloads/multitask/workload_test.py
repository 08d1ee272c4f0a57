"""Several tasks at once: losses, terms, gradients and results."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import multitask
from moe.config import ConfigError
from moe.training.step import init_state, make_train_step
from tests import tiny

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
    task = config.make_task()
    batch = next(task.train_batches(task.load(), 0, 1))
    return config, task, batch


def test_means_are_over_the_labels_there_are():
    sums = {
        'loss/task_0': jnp.array(6.0),
        'count/task_0': jnp.array(4.0),
        'loss/task_1': jnp.array(0.0),
        'count/task_1': jnp.array(0.0),
    }
    means = example()[1].means(sums)
    assert {k: float(v) for k, v in means.items()} == {
        'loss': 1.5,
        'loss/task_0': 1.5,
        'loss/task_1': 0.0,
    }


def test_task_without_a_label_moves_nothing_of_its_own():
    config, _, batch = example()
    mask = np.array(batch['mask'])
    mask[:, 1] = False
    state = jax.jit(lambda: init_state(config))()
    step = jax.jit(make_train_step(config))
    after, metrics = step(state, {**batch, 'mask': mask})
    assert np.isfinite(metrics['train/loss'])
    assert metrics['train/loss/task_1'] == 0
    # Adam moves what has a gradient: task 0's tower and the experts.
    before, after = (s.params for s in (state, after))
    for old, new in zip(
        *map(jax.tree.leaves, (before['towers'], after['towers'])), strict=True
    ):
        np.testing.assert_array_equal(old[1], new[1])
        assert np.max(np.abs(old[0] - new[0])) > 0
    # Labels outside the mask are not looked at.
    label = np.array(batch['label'])
    label[:, 1] = np.nan
    other, _ = step(state, {**batch, 'mask': mask, 'label': label})
    for a, b in zip(*map(jax.tree.leaves, (after, other.params)), strict=True):
        np.testing.assert_array_equal(a, b)


def gradients(config, task, batch, state):
    """Of each task's mean loss, by itself: a list of trees."""

    def loss(params, i):
        variables = {'params': params, **state.model_state}
        out = task.forward(
            variables, batch, train=True, rngs={'router': state.key}
        )
        return task.means(out.sums)[f'loss/task_{i}']

    return [jax.grad(loss)(state.params, i) for i in range(2)]


def moved(config, task, batch, state):
    """The gradient that the step's optimizer is given, and the state."""

    def objective(params):
        variables = {'params': params, **state.model_state}
        out = task.forward(
            variables, batch, train=True, rngs={'router': state.key}
        )
        terms = task.terms(params, task.means(out.sums))
        return (terms, jnp.zeros(())), out.state

    (terms, _), pull, model_state = jax.vjp(
        objective, state.params, has_aux=True
    )
    return task.gradients(pull, terms, model_state, jax.random.key(3))


def flat(tree, *names):
    return np.concatenate(
        [np.ravel(x) for n in names for x in jax.tree.leaves(tree[n])]
    )


def close(actual, desired):
    np.testing.assert_allclose(actual, desired, rtol=1e-4, atol=1e-5)


def test_static_weights():
    config, task, batch = example(**{'balance.weights': (3.0, 0.5)})
    state = init_state(config)
    first, second = gradients(config, task, batch, state)
    grads, _ = moved(config, task, batch, state)
    for name in ('mixture', 'towers'):
        desired = 3 * flat(first, name) + 0.5 * flat(second, name)
        close(flat(grads, name), desired)


def test_pcgrad_projects_the_shared_part_alone():
    config, task, batch = example(**{'balance.pcgrad': True})
    # Towers alike and opposed labels: the tasks pull the experts apart.
    label = np.array(batch['label'])
    label[:, 1] = -label[:, 0]
    batch = {**batch, 'label': label}
    state = init_state(config)
    alike = jax.tree.map(lambda x: x.at[1].set(x[0]), state.params['towers'])
    state = state._replace(params={**state.params, 'towers': alike})
    first, second = gradients(config, task, batch, state)
    grads, _ = moved(config, task, batch, state)
    close(flat(grads, 'towers'), flat(first, 'towers') + flat(second, 'towers'))
    a, b = flat(first, 'mixture'), flat(second, 'mixture')
    assert a @ b < 0
    desired = a - a @ b / (b @ b) * b + b - a @ b / (a @ a) * a
    close(flat(grads, 'mixture'), desired)


def test_gradnorm_weighs_and_moves_its_weights():
    config, task, batch = example(**{'balance.name': 'gradnorm'})
    state = init_state(config)
    start = {'weights': jnp.array([1.5, 0.5]), 'initial': jnp.array([1.0, 1.0])}
    state = state._replace(model_state={'gradnorm': start})
    first, second = gradients(config, task, batch, state)
    grads, model_state = moved(config, task, batch, state)
    for name in ('mixture', 'towers'):
        desired = 1.5 * flat(first, name) + 0.5 * flat(second, name)
        close(flat(grads, name), desired)
    # By hand: the norms of the shared gradients, and the pace.
    logits = task.evaluate(state.variables, batch)['logits'][..., 0]
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
    config, task, batch = example(**{'balance.name': 'uncertainty'})
    state = init_state(config)
    np.testing.assert_array_equal(state.params['log_variance'], [0, 0])
    first, second = gradients(config, task, batch, state)
    grads, _ = moved(config, task, batch, state)
    # At s = 0: half of each squared error, and (1 - L) / 2 for s.
    close(
        flat(grads, 'mixture'),
        (flat(first, 'mixture') + flat(second, 'mixture')) / 2,
    )
    sums = task.forward(state.variables, batch).sums
    means = np.array([float(sums[f'loss/task_{i}']) / 8 for i in range(2)])
    close(grads['log_variance'], (1 - means) / 2)
    told = task.weights({'log_variance': np.log([2.0, 0.5])}, {})
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


def test_results_are_over_the_live_rows():
    # Two batches, the last row padding. Task 0: errors 1 and 3, and one
    # without a label; task 1: 0, 2 and 2.
    task = example()[1]
    batches = [
        {
            'logits': np.array([[[1.0], [1]], [[3], [2]]]),
            'label': np.array([[0.0, 1], [0, 0]]),
            'mask': np.array([[True, True], [True, True]]),
            'live': np.array([True, True]),
        },
        {
            'logits': np.array([[[7.0], [2]], [[9], [9]]]),
            'label': np.zeros((2, 2)),
            'mask': np.array([[False, True], [True, True]]),
            'live': np.array([True, False]),
        },
    ]
    results = task.results(batches)
    assert results == {
        'loss': 5 + 8 / 3,
        'task_0/mse': 5.0,
        'task_1/mse': 8 / 3,
    }
    assert task.headline(results) == (
        'validation task_0 mse 5.0000, task_1 mse 2.6667'
    )


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
        tiny.check(plain(**changes)).make_task()
    assert caught.value.field == field
