"""Each kind of task by hand: losses, metrics, predictions."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from moe.config import ConfigError, parse, to_plain
from moe.workloads.multitask.data.schema import Label
from moe.workloads.multitask.targets import (
    TARGETS,
    Binary,
    Classes,
    Regression,
)

LOG2, LOG3 = np.log(2), np.log(3)
CITY = Classes('city', ('a', 'b', 'c'))


def test_kinds():
    made = {name: kind('x') for name, kind in TARGETS.items()}
    assert [t.num_outputs for t in made.values()] == [1, 1, 1]
    assert CITY.num_outputs == 3


def test_losses():
    # log(1 + e^0) = log 2 and, surer, log(1 + 1/3) at z = log 3; of classes
    # (0, log 2, 0) the middle one has half, the last a quarter; (1.5 - 1)^2
    # and (-1 - 1)^2.
    logit = jnp.array([[0.0], [LOG3]])
    loss = Binary('click').loss(logit, jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(loss, [LOG2, np.log(4 / 3)], rtol=1e-6)
    logits = jnp.array([[0, LOG2, 0]] * 2)
    loss = CITY.loss(logits, jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(loss, [LOG2, np.log(4)], rtol=1e-6)
    number = jnp.array([[1.5], [-1.0]])
    loss = Regression('spend').loss(number, jnp.array([1.0, 1.0]))
    np.testing.assert_allclose(loss, [0.25, 4], rtol=1e-6)


def test_predictions():
    # sigmoid(log 3) = 3/4; of (0, log 3, 0) shares of 1, 3 and 1 in 5.
    one = np.array([[LOG3]], np.float32)
    np.testing.assert_allclose(Binary('y').predictions(one)['y'], 0.75, 1e-6)
    found = CITY.predictions(np.array([[0, LOG3, 0]], np.float32))
    assert list(found) == ['city', 'city:a', 'city:b', 'city:c']
    assert found.pop('city') == ['b']
    chance = [value for (value,) in found.values()]
    np.testing.assert_allclose(chance, [0.2, 0.6, 0.2], rtol=1e-6)
    number = np.array([[1.5]], np.float32)
    assert Regression('spend').predictions(number) == {'spend': [1.5]}


def test_metrics_of_classes_and_numbers():
    # Right, wrong, and one without a label; errors 1 and 3.
    logits = np.array([[0, LOG2, 0], [0, LOG2, 0], [9, 0, 0]])
    mask = np.array([True, True, False])
    found = CITY.metrics(logits, np.array([1, 2, 2]), mask)
    np.testing.assert_allclose(found['accuracy'], 0.5)
    np.testing.assert_allclose(found['log_loss'], (LOG2 + np.log(4)) / 2)
    number = np.array([[1.0], [3.0], [9.0]])
    assert Regression('x').metrics(number, np.zeros(3), mask) == {'mse': 5.0}


@pytest.mark.parametrize('log1p', [False, True])
def test_transformed_numbers(log1p):
    # z = (y - 10) / 4, or (log(1 + y) - 10) / 4: predictions of z = -2 and
    # -2.25 are 2 and 1, labels of z = -2 and -2.5 are 2 and 0; or
    # e^2 - 1, e - 1 and e^2 - 1, 0.
    target = Regression(log1p=log1p, standardize=True).of_task(
        'spend', label_mean=10.0, label_deviation=4.0
    )
    z, label = np.array([[-2.0], [-2.25]]), np.array([-2.0, -2.5])
    desired = np.expm1([2, 1]) if log1p else [2, 1]
    np.testing.assert_allclose(target.predictions(z)['spend'], desired, 1e-12)
    y = np.array([np.expm1(2), 0]) if log1p else np.array([2.0, 0.0])
    np.testing.assert_allclose(target.encoded(y), label, rtol=1e-12)
    # Of the label's own units, and of what is trained: (0 + 0.25^2) / 2.
    found = target.metrics(z, label, np.ones(2, bool))
    assert found.keys() == {'mse', 'scaled_mse'}
    error = np.e - 1 if log1p else 1
    np.testing.assert_allclose(found['mse'], error**2 / 2, rtol=1e-12)
    np.testing.assert_allclose(found['scaled_mse'], 0.03125, rtol=1e-12)
    assert target.loss_name == 'scaled_mse'
    assert Regression().loss_name == 'mse'
    loss = target.loss(jnp.array(z), jnp.array(label))
    np.testing.assert_allclose(loss, [0, 0.0625], rtol=1e-6)


def test_metrics_of_a_binary_task():
    # The check values of two users: means of 1/6 and 1, by 5 and 4 rows.
    label = np.array([1, 0, 1, 1, 0, 1, 0, 0, 1])
    chance = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.9, 0.8, 0.7, 0.6])
    logits = np.log(chance / (1 - chance))[:, None]
    user = np.array([1] * 5 + [2] * 4)
    every = np.ones(9, bool)
    found = Binary('a').metrics(logits, label, every, user)
    assert sorted(found) == ['auc', 'calibration', 'gauc', 'log_loss']
    np.testing.assert_allclose(found['gauc'], 0.5833333, atol=1e-6)
    np.testing.assert_allclose(found['calibration'], 6.5 / 5)
    # One class alone has no order: what cannot be told is absent.
    alone = Binary('a').metrics(logits, label * 0, every)
    assert sorted(alone) == ['log_loss']


def test_what_is_no_number_is_not_told_to_be_good():
    label, every = np.array([1, 0, 1]), np.ones(3, bool)
    logits = np.array([[0.5], [np.nan], [0.0]])
    assert np.isnan(Binary('a').metrics(logits, label, every)['log_loss'])
    two = Classes('b', ('x', 'y'))
    lost = two.metrics(np.tile(logits, 2), label, every)
    assert np.isnan(lost['log_loss'])
    # A row without a label is not asked.
    labelled = np.array([True, False, True])
    found = Binary('a').metrics(logits, label, labelled)
    assert np.isfinite(found['log_loss'])


def test_target_of_a_plugin(monkeypatch):
    monkeypatch.setattr(TARGETS, '_entries', dict(TARGETS._entries))

    @TARGETS.register('absolute')
    @dataclasses.dataclass(frozen=True)
    class Absolute(Regression):
        scale: float = 1.0

        def loss(self, outputs, label):
            return self.scale * jnp.abs(outputs[:, 0] - label)

    target = {'name': 'absolute', 'scale': 2.0}
    label = parse(Label, {'name': 'a', 'column': 'b', 'target': target})
    assert label.target == Absolute(scale=2.0)
    plain = to_plain(Label, label)['target']
    assert plain == {**target, 'log1p': False, 'standardize': False}
    task = label.target.of_task('a')
    loss = task.loss(jnp.array([[1.5], [-1.0]]), jnp.ones(2))
    np.testing.assert_allclose(loss, [1, 4], rtol=1e-6)
    assert task.predictions(np.array([[1.5]])) == {'a': [1.5]}
    # The task's name is no option: it is the label's.
    with pytest.raises(ConfigError, match='classes'):
        parse(
            Label,
            {
                'name': 'a',
                'column': 'b',
                'target': {**target, 'classes': ('x',)},
            },
        )
