"""Synthetic tasks: the function, how alike they are, hosts and seeds."""

import json

import numpy as np
import pytest

from moe.config import ConfigError, parse
from moe.workloads import data_files
from moe.workloads.multitask.data.synthetic import (
    SyntheticSource,
    load_synthetic,
)

PLAIN = {
    'num_tasks': 2,
    'correlation': 0.5,
    'scale': 1.0,
    'num_sines': 5,
    'num_features': 10,
    'noise': 0.1,
    'num_rows': 40,
    'num_val_rows': 20,
    'seed': 0,
}


def load(**changes):
    return load_synthetic(parse(SyntheticSource, {**PLAIN, **changes}))


def correlation(labels):
    return np.corrcoef(np.float64(labels).T)[0, 1]


@pytest.mark.parametrize('p', [-1.0, -0.3, 0.0, 0.5, 1.0])
def test_weights_of_two_tasks(p):
    first, second = load(correlation=p, scale=0.7).weights
    # The paper's: w_2 = c (p u_1 + sqrt(1 - p²) u_2) of one u_1, u_2 for all p.
    u1, u2 = load(correlation=0.0, scale=1.0).weights
    np.testing.assert_allclose(
        [u1 @ u1, u2 @ u2, u1 @ u2], [1, 1, 0], atol=1e-12
    )
    np.testing.assert_allclose(first, 0.7 * u1, rtol=0, atol=1e-12)
    desired = 0.7 * (p * u1 + np.sqrt(1 - p**2) * u2)
    np.testing.assert_allclose(second, desired, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ('tasks', 'p'), [(1, 0.5), (3, -0.5), (4, 0.6), (5, 1.0), (5, 0.0)]
)
def test_weights_of_more_tasks(tasks, p):
    weights = load(num_tasks=tasks, correlation=p, scale=2.0).weights
    desired = 4 * (np.full((tasks, tasks), p) + (1 - p) * np.eye(tasks))
    np.testing.assert_allclose(weights @ weights.T, desired, rtol=0, atol=1e-7)


@pytest.mark.parametrize('tasks', [1, 2, 3])
def test_labels_are_the_function(tasks):
    made = load(num_tasks=tasks, noise=0.0)
    assert made.train['numeric'].shape == (40, 10)
    assert made.val['numeric'].shape == (20, 10)
    for rows in (made.train, made.val):
        assert rows['label'].dtype == rows['numeric'].dtype == np.float32
        assert rows['mask'].all()
        assert rows['mask'].shape == rows['label'].shape
        for x, y in zip(rows['numeric'], rows['label'], strict=True):
            for w, actual in zip(made.weights, y, strict=True):
                z = sum(float(a) * b for a, b in zip(x, w, strict=True))
                sines = np.sin(made.slopes * z + made.phases)
                np.testing.assert_allclose(actual, z + sum(sines), atol=1e-5)


def test_noise():
    # Only the noise differs: standard deviation 0.3 of 40,000 labels, whose own
    # deviation is 0.3 / sqrt(80,000) = 0.001, of its own for each task.
    quiet, loud = (load(noise=n, num_rows=20_000) for n in (0.0, 0.3))
    np.testing.assert_array_equal(quiet.train['numeric'], loud.train['numeric'])
    noise = np.float64(loud.train['label']) - quiet.train['label']
    np.testing.assert_allclose(np.std(noise), 0.3, rtol=0, atol=0.006)
    np.testing.assert_allclose(np.mean(noise), 0.0, rtol=0, atol=0.01)
    assert abs(correlation(noise)) < 0.04


def test_features_are_standard_normal():
    x = np.float64(load(num_rows=20_000).train['numeric'])
    np.testing.assert_allclose(np.mean(x, axis=0), 0, rtol=0, atol=0.04)
    np.testing.assert_allclose(np.cov(x.T), np.eye(10), rtol=0, atol=0.06)


@pytest.mark.parametrize('p', [-1.0, 0.0, 0.5, 0.9, 1.0])
def test_correlation_of_linear_tasks_is_p(p):
    # corr(w_1 x, w_2 x) = w_1 w_2 / (|w_1| |w_2|) = p, of deviation below
    # 1 / sqrt(20,000) = 0.007.
    made = load(num_sines=0, noise=0.0, correlation=p, num_rows=20_000)
    actual = correlation(made.train['label'])
    np.testing.assert_allclose(actual, p, rtol=0, atol=0.03)


@pytest.mark.parametrize('p', [0.0, 0.5, 0.9])
def test_correlation_with_sines(p):
    # (w_1 x, w_2 x) is a pair of normals of correlation p: its grid of
    # Gauss-Hermite nodes gives the moments of f(z) = z + sum sin(a z + b).
    made = load(noise=0.1, correlation=p, num_rows=40_000)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / np.sum(weights)
    f = lambda z: (
        z
        + sum(
            np.sin(a * z + b)
            for a, b in zip(made.slopes, made.phases, strict=True)
        )
    )
    first, other = nodes[:, None], nodes[None, :]
    second = p * first + np.sqrt(1 - p**2) * other
    both = weights[:, None] * weights[None, :]
    mean = np.sum(weights * f(nodes))
    variance = np.sum(weights * f(nodes) ** 2) - mean**2
    shared = np.sum(both * f(first) * f(second)) - mean**2
    desired = shared / (variance + 0.1**2)
    actual = correlation(made.train['label'])
    np.testing.assert_allclose(actual, desired, rtol=0, atol=0.025)


def test_labels_are_the_more_alike_the_greater_p():
    made = [
        correlation(load(correlation=p, num_rows=5000).train['label'])
        for p in (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
    ]
    assert made == sorted(made)


def test_tasks_of_p_1_are_one():
    label = load(correlation=1.0, noise=0.0).train['label']
    np.testing.assert_allclose(label[:, 0], label[:, 1], rtol=0, atol=1e-6)
    assert np.ptp(label) > 1


def test_seed_is_of_the_function_and_the_rows():
    one, again, other = load(), load(), load(seed=1)
    assert one.fingerprint == again.fingerprint != other.fingerprint
    assert one.fingerprint != load(noise=0.2).fingerprint
    for name, rows in one.train.items():
        np.testing.assert_array_equal(rows, again.train[name])
    assert not np.allclose(one.weights, other.weights)
    assert not np.any(one.val['numeric'] == other.val['numeric'])
    # No row is in both.
    x = np.concatenate([one.train['numeric'], one.val['numeric']])
    assert len(np.unique(x, axis=0)) == 60
    # Whatever is trained on, it is validated on the same.
    stream = load(num_rows=0)
    np.testing.assert_array_equal(stream.val['label'], one.val['label'])
    assert stream.train is None


@pytest.mark.parametrize('num_rows', [0, 40])
def test_hosts_share_a_batch(num_rows):
    data = load(num_rows=num_rows)
    whole = data.train_batches(8, seed=5)
    parts = [data.train_batches(8, 5, host, 2) for host in range(2)]
    for _ in range(7):  # more than an epoch of 40
        batch = next(whole)
        assert batch['valid'].tolist() == [True] * 8
        for host, part in enumerate(parts):
            own = next(part)
            assert own.keys() == batch.keys()
            for name, rows in batch.items():
                np.testing.assert_array_equal(own[name], rows[host::2])


def test_stream_never_repeats_and_goes_on():
    data = load(num_rows=0, noise=0.0)
    iterator = data.train_batches(8, seed=5)
    made = [next(iterator) for _ in range(6)]
    x = np.concatenate([b['numeric'] for b in made])
    assert len(np.unique(x, axis=0)) == 48
    z = np.float64(made[2]['numeric']) @ data.weights.T
    sines = np.sin(np.multiply.outer(z, data.slopes) + data.phases)
    desired = z + np.sum(sines, axis=-1)
    np.testing.assert_allclose(made[2]['label'], desired, rtol=0, atol=1e-5)
    # From its state, and of another seed.
    iterator.set_state(json.loads('{"next_index": 4}'))
    np.testing.assert_array_equal(next(iterator)['numeric'], made[4]['numeric'])
    other = next(data.train_batches(8, seed=6))
    assert not np.any(other['numeric'] == made[0]['numeric'])


@pytest.mark.parametrize(
    ('changes', 'field'),
    [
        ({'correlation': 1.1}, 'correlation'),
        ({'num_tasks': 3, 'correlation': -0.6}, 'correlation'),
        ({'num_features': 1}, 'num_features'),
        ({'num_val_rows': 0}, 'num_val_rows'),
        ({'noise': -0.1}, 'noise'),
        ({'scale': 0.0}, 'scale'),
    ],
)
def test_refused(changes, field):
    with pytest.raises(ConfigError) as caught:
        parse(SyntheticSource, {**PLAIN, **changes})
    assert caught.value.field == f'config.{field}'


def test_fewer_rows_than_a_batch():
    source = parse(SyntheticSource, {**PLAIN, 'num_rows': 7})
    assert source.load(7).train_batches(7, seed=0)
    with pytest.raises(ConfigError, match='at least batch_size') as caught:
        source.load(8)
    assert caught.value.field == 'config.data.source.num_rows'


def test_what_a_model_is_made_for():
    source = parse(SyntheticSource, {**PLAIN, 'num_tasks': 3})
    assert source.num_tasks == 3
    inputs = source.inputs()
    assert [t.name for t in inputs.targets] == ['task_0', 'task_1', 'task_2']
    assert (inputs.num_numeric, inputs.table_of) == (10, ())
    made = source.load(8)
    assert made.inputs == inputs
    sizes = made.sizes()
    assert (sizes['train_rows'], sizes['val_rows']) == (40, 20)
    sizes = load(num_rows=0).sizes()
    assert (sizes['train_rows'], sizes['val_rows']) == (0, 20)


@pytest.mark.parametrize('name', ['num_rows', 'num_val_rows', 'num_features'])
def test_more_than_memory(monkeypatch, name):
    # Before a row is drawn, and were there a hundred gigabytes.
    monkeypatch.setattr(data_files, 'available_memory', lambda: 10**11)
    source = parse(SyntheticSource, {**PLAIN, name: 2**31 - 1})
    with pytest.raises(ConfigError, match=r'num_rows.* fits in memory'):
        source.load(4)
