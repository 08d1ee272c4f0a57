"""Updates that are left out: when, and that nothing of them stays."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.training.divergence import (
    LEAST,
    WINDOW,
    DivergenceConfig,
    all_finite,
    init_guard,
    judge,
    median,
    told,
)
from moe.training.step import init_state, make_train_step
from tests.training.tasks import tasks

decide = jax.jit(judge, static_argnames=('skip_above', 'max_skipped'))


def after(norms, objective=1.0, *, guard=None, skip_above=None, max_skipped=3):
    """Whether each update is made, and the last guard."""
    guard, made = guard or init_guard(), []
    for norm in norms:
        one, guard = decide(
            guard,
            jnp.float32(objective),
            jnp.float32(norm),
            skip_above=skip_above,
            max_skipped=max_skipped,
        )
        made.append(bool(one))
    return made, guard


def test_finite_norms_of_any_size_make_updates():
    made, guard = after([1.0, 1e30, 1e-30])
    assert made == [True] * 3
    assert (guard.updates, guard.skipped, guard.in_a_row) == (3, 0, 0)


@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_what_is_not_finite_makes_none(bad):
    made, guard = after([1.0, bad, 1.0, bad, bad])
    assert made == [True, False, True, False, False]
    assert (guard.updates, guard.skipped, guard.in_a_row) == (2, 3, 2)
    assert guard.seen == 2
    assert np.all(np.isfinite(guard.norms))
    # A loss is as good a reason as a gradient.
    assert after([1.0], bad)[0] == [False]


def test_after_too_many_in_a_row_none_is_made():
    nan = math.nan
    made, guard = after([nan, nan, 1.0, nan, nan, nan, 1.0, 1.0])
    assert made == [False, False, True, False, False, False, False, False]
    assert guard.in_a_row == 5


def test_norms_far_above_their_median_make_none():
    # The median of 1, 2, ..., 8 is 4.5: three times it is 13.5. The 14 counts
    # from then on: of 1, ..., 8 and 14 it is 5.
    given = [*range(1, 9), 14, 13.5]
    made, guard = after(given, skip_above=3.0)
    assert made == [True] * 8 + [False, True]
    assert median(guard) == 5.5  # of 1, ..., 8, 13.5, 14
    # Before there are eight, none is too large.
    made, _ = after([*[1.0] * (LEAST - 1), 100.0], skip_above=3.0)
    assert all(made)


def test_the_median_is_of_the_newest():
    # A ring of 64: after 64 ones, 33 twos are more than half.
    _, guard = after([1.0] * WINDOW)
    assert median(guard) == 1
    assert median(after([2.0] * 32, guard=guard)[1]) == 1.5
    assert median(after([2.0] * 33, guard=guard)[1]) == 2
    assert median(init_guard()) == math.inf


def test_all_finite():
    fine = {'a': jnp.ones(2), 'n': jnp.int32(3), 'key': jax.random.key(0)}
    assert all_finite(fine)
    for bad in (math.nan, math.inf, -math.inf):
        assert not all_finite({**fine, 'b': jnp.array([0.0, bad])})


def test_what_is_told():
    config = DivergenceConfig(max_skipped=2)
    found = functools.partial(told, 7, config=config)
    values = {'train/loss': 2.0, 'train/grad_norm': math.inf}
    assert found(values | {'train/skipped_in_a_row': 1.0}) is None
    row = {'train/skipped_in_a_row': 2.0}
    assert found(values | row) == (
        'train/loss is 2, train/grad_norm inf, at step 7: '
        '2 updates in a row were left out'
    )
    assert 'train/loss is nan' in found({'train/loss': math.nan} | row)
    # No label at all is nothing wrong; a step without a guard has its loss.
    assert found({}) is None
    assert found({'train/loss': 1.0}) is None
    assert found({'train/loss': math.nan}) is not None


@pytest.fixture(scope='module')
def begun():
    """A run of tasks after its first step."""
    changes = {
        'model.expert.batch_norm.momentum': 0.99,
        'balance': {'name': 'static', 'weights': (1.0, 50.0)},
        'optimizer.schedule': {'name': 'cosine', 'warmup_steps': 10},
    }
    config, workload, batch = tasks(**changes)
    step = jax.jit(make_train_step(config, workload))
    state, _ = step(init_state(config, workload=workload), batch)
    return config, step, state, batch


@pytest.mark.slow
@pytest.mark.parametrize(
    ('label', 'finite_loss'),
    # 1e60 is beyond float32; 50 times the mean 1e38 / 16 is not, but the
    # square of its gradient, some 50 * 2e19 / 16.
    [(1e30, False), (1e19, True)],
)
def test_a_skipped_update_leaves_everything_as_it_was(
    begun, label, finite_loss
):
    config, step, state, batch = begun
    poisoned = np.array(batch['label'])
    poisoned[3, 1] = label
    left, metrics = step(state, {**batch, 'label': poisoned})
    assert np.isfinite(metrics['train/loss']) == finite_loss
    assert not np.isfinite(metrics['train/grad_norm'])
    assert metrics['train/skipped'] == metrics['train/skipped_in_a_row'] == 1
    kept = ('params', 'opt_state', 'model_state')
    for name in kept:
        jax.tree.map(
            np.testing.assert_array_equal,
            getattr(left, name),
            getattr(state, name),
        )
    assert (state.step, left.step) == (1, 2)
    # The optimizer's count waits, and with it the warmup: the third step has
    # the rate of the second update.
    again, metrics = step(left, batch)
    rate = config.optimizer.learning_rates(config.steps)
    np.testing.assert_allclose(metrics['train/learning_rate'], rate(1), 1e-6)
    assert metrics['train/skipped'] == 1
    assert metrics['train/skipped_in_a_row'] == 0
    assert not np.array_equal(
        jax.tree.leaves(again.params)[0], jax.tree.leaves(left.params)[0]
    )
