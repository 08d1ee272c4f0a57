"""Batch normalisation against arithmetic; recorded runs: network_test."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from moe.experts import BatchNorm, Renorm
from tests import tiny
from tests.reference import multitask as reference
from tests.reference.compare import assert_close

pytestmark = pytest.mark.slow

B, D = 5, 3
X, DY = 2 * tiny.numbers((B, D), 0) + 1, tiny.numbers((B, D), 1)
PARAMS = {'gamma': tiny.numbers(D, 2), 'beta': tiny.numbers(D, 3)}


def steps(layer, *batches, stats=None):
    """Training outputs of some steps, and the statistics after them."""
    variables = layer.init(jax.random.key(0), batches[0])
    stats, outputs = stats or variables['batch_stats'], []
    for x in batches:
        y, moved = layer.apply(
            {'params': variables['params'], 'batch_stats': stats},
            x,
            train=True,
            mutable=['batch_stats'],
        )
        outputs.append(y)
        stats = moved['batch_stats']
    return outputs, stats


@pytest.mark.parametrize('parallel', [False, True])
def test_equals_the_loop(parallel):
    # Parallel networks: the same statistics, each entry on its own.
    layer = BatchNorm()
    x = np.stack([X, 3 * X[::-1]], axis=1) if parallel else X
    params = PARAMS
    if parallel:
        params = {n: np.stack([v, v + 1]) for n, v in PARAMS.items()}
    stats = layer.init(jax.random.key(0), x)['batch_stats']

    def objective(params, x):
        variables = {'params': params, 'batch_stats': stats}
        y = layer.apply(variables, x, train=True)
        return jnp.sum(y[:, 0] * DY if parallel else y * DY), y

    (d_params, d_x), y = jax.grad(objective, (0, 1), has_aux=True)(params, x)
    if parallel:
        second = reference.one_of(params, 1)
        desired = reference.batch_norm(np.float64(x[:, 1]), **second)
        assert_close(y[:, 1], desired, 5e-6)
        d_params = {n: v[0] for n, v in d_params.items()}
        assert not np.any(d_x[:, 1])
        y, d_x = y[:, 0], d_x[:, 0]
    wide = reference.wide({'x': X, **PARAMS})
    by_loop = lambda tree: np.sum(reference.batch_norm(**tree) * DY)
    assert_close(y, reference.batch_norm(**wide), 5e-6)
    desired = reference.numerical_gradient(by_loop, wide)
    assert_close({'x': d_x, **d_params}, desired, 1e-5)


def test_running_averages_and_evaluation():
    # [1, 3] and [2, 6]: means 2 and 4, variances 1 and 4; momentum .9:
    # mean .1 * 2 = .2, .9 * .2 + .4 = .58; variance .9 + .1 = 1, .9 + .4 = 1.3
    layer = BatchNorm(momentum=0.9)
    batches = [jnp.array([[1.0], [3.0]]), jnp.array([[2.0], [6.0]])]
    _, stats = steps(layer, *batches)
    assert_close(stats, {'mean': [0.58], 'variance': [1.3]}, 1e-6)
    variables = {
        'params': {'gamma': jnp.full(1, 2.0), 'beta': jnp.full(1, 3.0)},
        'batch_stats': stats,
    }
    # One example of the same value in any company.
    for x in ([[1.0]], [[1.0], [50.0]]):
        y = layer.apply(variables, jnp.array(x))
        desired = 2 * (1 - 0.58) / np.sqrt(1.3 + 1e-3) + 3
        np.testing.assert_allclose(y[0], desired, rtol=1e-6)


def test_statistics_move_in_training_alone():
    layer = BatchNorm(renorm=Renorm())
    variables = layer.init(jax.random.key(0), X, train=True)
    assert not np.any(variables['batch_stats']['mean'])
    _, moved = layer.apply(variables, X, mutable=['batch_stats'])
    jax.tree.map(
        np.testing.assert_array_equal,
        moved,
        {'batch_stats': variables['batch_stats']},
    )
    # Not mutable: an output, and no complaint.
    layer.apply(variables, X, train=True)
    _, stats = steps(layer, X, X)
    assert int(stats['updates']) == 2


def test_padding_is_in_no_statistic():
    layer = BatchNorm()
    mask = np.array([1, 1, 0, 1, 0], bool)
    variables = layer.init(jax.random.key(0), X)
    x = np.where(mask[:, None], X, np.float32(np.nan))
    apply = functools.partial(
        layer.apply, variables, train=True, mutable=['batch_stats']
    )
    y, moved = apply(x, mask=mask)
    alone, desired = apply(X[mask])
    assert_close(y[mask], np.asarray(alone), 1e-6)
    assert_close(moved, desired, 1e-6)


def test_renorm_unclipped_is_by_the_averages_before_the_step():
    # (x - m) / s: at first m = 0, s = 1 and the output is the input; then
    # m = .2 * 2 = .4 and s = .8 + .2 * sqrt(1 + .001).
    layer = BatchNorm(renorm=Renorm(momentum=0.8))
    x = jnp.array([[1.0], [3.0]])
    (first, second), stats = steps(layer, x, 5 * x)
    np.testing.assert_allclose(first, x, rtol=1e-6)
    s = 0.8 + 0.2 * np.sqrt(1.001)
    np.testing.assert_allclose(second, (5 * x - 0.4) / s, rtol=1e-6)
    # Evaluation takes the other average, of momentum .99, less epsilon.
    sd = 0.99 * (0.99 + 0.01 * np.sqrt(1.001)) + 0.01 * np.sqrt(25.001)
    np.testing.assert_allclose(stats['sd'], [sd], rtol=1e-6)
    variables = layer.init(jax.random.key(0), x)
    y = layer.apply({**variables, 'batch_stats': stats}, x)
    mean = 0.99 * 0.01 * 2 + 0.01 * 10
    np.testing.assert_allclose(y, (x - mean) / sd, rtol=1e-5)
    # A deviation below sqrt(epsilon) counts as variance 0.
    stats = {**stats, 'mean': jnp.zeros(1), 'sd': jnp.full(1, 1e-2)}
    y = layer.apply({**variables, 'batch_stats': stats}, x)
    np.testing.assert_allclose(y, x / np.sqrt(1e-3), rtol=1e-5)


def test_renorm_clips_and_its_corrections_carry_no_gradient():
    # Batch [1, 7]: mean 4, variance 9, sd = sqrt(9.001) to m = 0, s = 1.
    # r is clipped from 3 to 2, d from 4 to .5: y = (x - 4) / sd * 2 + .5.
    renorm = Renorm(rmax=2.0, dmax=0.5)
    layer = BatchNorm(renorm=renorm)
    x, sd = jnp.array([[1.0], [7.0]]), np.sqrt(9.001)
    ((y,), _) = steps(layer, x)
    np.testing.assert_allclose(y, (x - 4) / sd * 2 + 0.5, rtol=1e-6)
    # Small: r = sd from below, sqrt(.01 + .001) = .105 -> 1 / rmax = .5.
    small = jnp.array([[-0.1], [0.1]])
    ((y,), _) = steps(layer, small)
    desired = small / np.sqrt(0.011) * 0.5
    np.testing.assert_allclose(y, desired, rtol=1e-5)
    rmin = BatchNorm(renorm=Renorm(rmax=2.0, rmin=0.8))
    ((y,), _) = steps(rmin, small)
    np.testing.assert_allclose(y, desired * 1.6, rtol=1e-5)
    # Clipped or not, the gradient is r times that of plain normalisation.
    # [1, 7, 1]: variance 8, r is 2 or sqrt(8.001).
    x, sd = jnp.array([[1.0], [7.0], [1.0]]), np.sqrt(8.001)
    plain = BatchNorm()
    gradients = []
    for module in (plain, layer, BatchNorm(renorm=Renorm())):
        variables = module.init(jax.random.key(0), x)
        objective = lambda x, m=module, v=variables: jnp.sum(
            m.apply(v, x, train=True) * jnp.array([[1.0], [2.0], [4.0]])
        )
        gradients.append(jax.grad(objective)(x))
    np.testing.assert_allclose(gradients[1], 2 * gradients[0], rtol=1e-5)
    assert_close(gradients[2], sd * np.asarray(gradients[0]), 1e-6)


def test_schedule_of_the_clips():
    # As in the paper, from 1 and 0 to 3 and 5, here in 2 updates from the
    # second: plain batch normalisation at first.
    renorm = Renorm(
        rmax=optax.linear_schedule(1.0, 3.0, 2, 1),
        dmax=optax.linear_schedule(0.0, 5.0, 2, 1),
    )
    rows = [renorm.clips(jnp.int32(n)) for n in range(4)]
    desired = [[1, 1, 0], [1, 1, 0], [1 / 2, 2, 2.5], [1 / 3, 3, 5]]
    np.testing.assert_allclose(rows, desired, rtol=1e-6)
    outputs, _ = steps(BatchNorm(renorm=renorm), X, X, X)
    plain, _ = steps(BatchNorm(), X)
    for y in outputs[:2]:
        np.testing.assert_allclose(y, plain[0], rtol=1e-6)
    assert np.max(np.abs(outputs[2] - plain[0])) > 0.1


def test_constant_input_is_finite():
    for renorm in (None, Renorm()):
        layer = BatchNorm(renorm=renorm)
        variables = layer.init(jax.random.key(0), X)
        objective = lambda x, m=layer, v=variables: jnp.sum(
            m.apply(v, x, train=True) ** 2
        )
        gradient = jax.grad(objective)(jnp.ones((B, D)))
        assert np.all(np.isfinite(gradient))
