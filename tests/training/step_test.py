"""The training step: objective, gradients, accumulation, purity."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.training.step import init_state, make_eval_step, make_train_step
from moe.workloads.lm.model import LM
from tests import tiny
from tests.reference.compare import assert_close

pytestmark = pytest.mark.slow

TOKENS = np.random.default_rng(0).integers(0, 256, (8, 17), np.uint8)
COEFFICIENTS = {'load_balance': 0.5, 'router_z': 0.25}


@functools.lru_cache
def config(accumulation=1, moe_every=1):
    changes = {
        'losses': COEFFICIENTS,
        'model.moe.losses.load_balance.scope': 'group',
        'model.moe_every': moe_every,
        'optimizer.accumulation': accumulation,
    }
    return tiny.parsed(changes)


@functools.lru_cache
def initial():
    return jax.jit(lambda: init_state(config()))()


@functools.lru_cache
def train_step(accumulation=1):
    return jax.jit(make_train_step(config(accumulation)))


@functools.lru_cache
def by_hand():
    """Loss, auxiliary losses and gradients, written out."""

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def gradient(params):
        tokens = jnp.asarray(TOKENS, jnp.int32)
        model = LM(config().model)
        logits, _, aux = model.apply({'params': params}, tokens[:, :-1])
        logs = jax.nn.log_softmax(logits)
        at = jnp.take_along_axis(logs, tokens[:, 1:, None], axis=-1)
        # Two layers: the mean of each loss over them.
        balance = (aux.losses['load_balance'] @ jnp.ones(2)) / 2
        z = (aux.losses['router_z'] @ jnp.ones(2)) / 2
        loss = -jnp.sum(at) / (8 * 16)
        return loss + 0.5 * balance + 0.25 * z, (loss, balance, z)

    (total, parts), grads = gradient(initial().params)
    return (total, *parts), grads


def test_objective_is_the_loss_plus_each_weighted_auxiliary_loss():
    _, metrics = train_step()(initial(), TOKENS)
    (total, loss, balance, z), _ = by_hand()
    desired = {
        'train/loss': loss,
        'train/load_balance': balance,
        'train/router_z': z,
        'train/objective': total,
    }
    for name, value in desired.items():
        np.testing.assert_allclose(metrics[name], value, 1e-6, err_msg=name)
    extra = 0.5 * metrics['train/load_balance']
    extra += 0.25 * metrics['train/router_z']
    np.testing.assert_allclose(
        metrics['train/objective'] - metrics['train/loss'], extra, 1e-6
    )
    assert extra > 0.5  # at least the balance loss's 1, halved


def test_first_step_of_adam():
    # lr * (g / (|g| + 1e-8) + decay * p), with clipping to a norm of 1, a
    # learning rate of half of .003, and a decay of .1 of matrices.
    state, metrics = train_step()(initial(), TOKENS)
    _, grads = by_hand()
    squares = [np.sum(np.float64(g) ** 2) for g in jax.tree.leaves(grads)]
    norm = np.sqrt(np.sum(squares))
    np.testing.assert_allclose(metrics['train/grad_norm'], norm, rtol=1e-5)
    np.testing.assert_allclose(metrics['train/learning_rate'], 1.5e-3, 1e-6)
    assert state.step == 1

    def step(path, before, after, gradient):
        name = path[-1].key
        decay = 0 if name in ('router', 'scale') else 0.1
        g = np.float64(gradient) / max(norm, 1)
        desired = -1.5e-3 * (g / (np.abs(g) + 1e-8) + decay * before)
        clear = np.abs(g) > 1e-5  # of smaller ones the rounding shows
        np.testing.assert_allclose(
            (after - before)[clear], desired[clear], atol=3e-6, err_msg=name
        )
        return np.sum(clear)

    counts = jax.tree_util.tree_map_with_path(
        step, initial().params, state.params, grads
    )
    assert np.all(np.array(jax.tree.leaves(counts)) > 0)


def test_accumulation_equals_the_large_batch():
    # With balance taken a group, every term is a mean over sequences, but the
    # variations of importance and load, which have no weight here. Of two
    # roundings of a gradient near zero Adam may make two steps: there, of at
    # most the learning rate.
    whole, metrics = train_step()(initial(), TOKENS)
    parts, found = train_step(2)(initial(), TOKENS)
    assert sorted(found) == sorted(metrics)
    for name, value in metrics.items():
        if name not in ('moe', 'train/importance', 'train/load'):
            np.testing.assert_allclose(found[name], value, 1e-5, err_msg=name)
    assert_close(found['moe']['load'], np.asarray(metrics['moe']['load']), 1e-6)
    _, grads = by_hand()
    for a, b, g in zip(
        *map(jax.tree.leaves, (parts.params, whole.params, grads)), strict=True
    ):
        clear = np.abs(g) > 1e-5
        np.testing.assert_allclose(a[clear], b[clear], atol=1e-5)
        np.testing.assert_allclose(a, b, atol=1.6e-3)


def test_pure():
    state = initial()
    before = jax.tree.map(np.array, (state.params, state.opt_state))
    first = train_step()(state, TOKENS)
    second = train_step()(state, TOKENS)
    strip = lambda out: (out[0]._replace(key=None), out[1])
    chex.assert_trees_all_equal(strip(first), strip(second))
    chex.assert_trees_all_equal((state.params, state.opt_state), before)
    # The run's key is never spent: the step's number is folded into it.
    data = jax.random.key_data
    np.testing.assert_array_equal(data(first[0].key), data(state.key))


def test_learns_without_compiling_again():
    # Five steps on one batch, the step number and all counts moving.
    state, losses = initial(), []
    train_step()(state, TOKENS)
    with tiny.compilations() as compiled:
        for _ in range(5):
            state, metrics = train_step()(state, TOKENS)
            losses.append(float(metrics['train/loss']))
    assert compiled == []
    assert state.step == 5
    assert np.all(np.diff(losses) < 0)


def test_initial_state_is_a_function_of_the_seed():
    def kernel(seed):
        changed = tiny.parsed({'seed': seed})
        shapes = jax.eval_shape(lambda: init_state(changed))
        assert shapes.step.dtype == np.int32
        key = jax.random.fold_in(jax.random.key(seed), 0)
        return shapes, LM(changed.model), key

    shapes, model, key = kernel(0)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, initial())
    assert shapes.model_state == {}
    # The parameters come of the seed's first key, steps of the second.
    init = jax.jit(model.init)
    params = init(key, jnp.zeros((1, 16), jnp.int32))['params']
    chex.assert_trees_all_close(params, initial().params, rtol=1e-6)
    desired = jax.random.fold_in(jax.random.key(0), 1)
    assert initial().key == desired
    other = init(kernel(1)[2], jnp.zeros((1, 16), jnp.int32))['params']
    assert np.max(np.abs(other['head'] - params['head'])) > 0.1


def test_metrics_of_a_dense_model():
    dense = config(moe_every=0)
    shapes = jax.eval_shape(lambda: init_state(dense))
    _, metrics = jax.eval_shape(make_train_step(dense), shapes, TOKENS)
    parts = ('attention', 'dense', 'embedding', 'head', 'other')
    assert sorted(metrics) == [
        'count/train/loss',
        'train/grad_norm',
        *(f'train/grad_norm/{part}' for part in parts),
        'train/learning_rate',
        'train/loss',
        'train/objective',
        'train/param_norm',
        *(f'train/param_norm/{part}' for part in parts),
        'train/skipped',
        'train/skipped_in_a_row',
    ]
    assert dense.make_workload().layer_metrics({}) == {}


def test_evaluation_sums_over_live_targets():
    eval_step = jax.jit(make_eval_step(config()))
    mask = np.ones((8, 16), bool)
    mask[5, 3:] = mask[6:] = False
    means, rows, _ = eval_step(initial(), (TOKENS, mask))
    total, count = means['loss'].sum, means['loss'].count
    assert rows == {}
    assert count == 5 * 16 + 3
    model = LM(config().model)
    logits, _, _ = jax.jit(model.apply)(
        {'params': initial().params}, jnp.asarray(TOKENS[:, :-1], jnp.int32)
    )
    logits = np.float64(logits)
    desired = 0.0
    for b, s in np.argwhere(mask):
        powers = np.exp(logits[b, s] - np.max(logits[b, s]))
        desired -= np.log(powers[TOKENS[b, s + 1]] / np.sum(powers))
    np.testing.assert_allclose(total, desired, rtol=1e-6)
    # What stands in the padding changes nothing.
    other = TOKENS.copy()
    other[5, 4:] = other[6:] = 7
    np.testing.assert_allclose(
        eval_step(initial(), (other, mask)).means['loss'].sum, total
    )


@pytest.mark.parametrize('accumulation', [1, 2])
def test_router_state_moves_once_a_step_by_the_whole_batch(accumulation):
    # Of two layers, each by its own load over all microbatches.
    balance = {'name': 'sign', 'rate': 0.5}
    changes = {
        'model.moe.router': {'name': 'sigmoid', 'k': 2, 'balance': balance},
        'optimizer.accumulation': accumulation,
    }
    given = tiny.parsed(changes)
    state = tiny.state(given)
    (path,) = [
        path
        for path, _ in jax.tree_util.tree_leaves_with_path(state.model_state)
    ]
    assert path[0].key == 'router_state'
    assert path[-1].key == 'bias'
    after, metrics = jax.jit(make_train_step(given))(state, TOKENS)
    (bias,) = jax.tree.leaves(after.model_state)
    load = np.asarray(metrics['moe']['load'])
    assert load.shape == bias.shape == (2, 4)
    change = 0.5 * np.sign(np.round(1 - load, 5))
    desired = change - change.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(bias, desired, atol=1e-6)
    assert np.any(bias)
    # What the step chose with is logged.
    assert not np.any(metrics['moe']['state/bias'])
