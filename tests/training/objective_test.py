"""The objective: weighted losses that have data, and auxiliary losses."""

import types

import jax.numpy as jnp
import numpy as np

from moe.losses import cv_squared
from moe.totals import Derived, Mean
from moe.training.objective import Objective
from moe.training.workload import Outputs
from moe.types import Aux, Totals


class Tasks:
    """A workload of two tasks, one without a label, and a given Aux."""

    def __init__(self, aux=None):
        self._aux = aux

    def forward(self, variables, batch, **options):
        del options
        loss = Mean(variables['params'] * batch, jnp.float32(2))
        means = {
            'loss/a': loss,
            'loss/b': Mean(jnp.float32(0), jnp.float32(0)),
            'accuracy': Mean(jnp.float32(3), jnp.float32(4)),
        }
        return Outputs(means, self._aux, {}, {})

    def weigh_losses(self, losses, params):
        # A constant beside the loss, as uncertainty weighting has.
        del params
        return {name: 2 * loss + 7 for name, loss in losses.items()}


def objective(aux=None, **coefficients):
    config = types.SimpleNamespace(coefficients=coefficients)
    return Objective(config, Tasks(aux))


def test_a_loss_without_data_is_no_term():
    # 2 * (3 * 4 / 2) + 7 of task a; nothing of b, its constant neither.
    given = objective()
    terms, (sums, state) = given.sums(3.0, {}, 4.0, None)
    assert state == {}
    weighted, auxiliary = given.parts(terms, 3.0)
    assert (weighted, auxiliary) == ({'loss/a': 19, 'loss/b': 0}, 0)
    assert given.value(terms, 3.0) == 19
    assert given.metrics(sums, 3.0) == {
        'train/loss/a': 6,
        'count/train/loss/a': 2,
        'train/loss/b': 0,
        'count/train/loss/b': 0,
        'train/accuracy': 0.75,
        'count/train/accuracy': 4,
        'train/loss': 6,
        'count/train/loss': 2,
        'train/objective': 19,
    }


def test_auxiliary_losses_are_means_over_layers_times_coefficients():
    # CV^2 of [0, 4]: variance 8 over the squared mean 4; of [2, 2]: 0.
    amount = jnp.array([[0.0, 4.0], [2.0, 2.0]])
    tokens = jnp.array([3.0, 3.0])
    load = Derived(amount, tokens, cv_squared)
    totals = Totals({'load': load, 'other': load}, load)
    given = objective(Aux({}, {}, totals=totals), load=0.5)
    terms, (sums, _) = given.sums(3.0, {}, 4.0, None)
    assert list(terms.auxiliary) == ['load']
    np.testing.assert_allclose(given.value(terms, 3.0), 19 + 0.5 * 1)
    metrics = given.metrics(sums, 3.0)
    np.testing.assert_allclose(metrics['train/other'], 1)
    np.testing.assert_allclose(metrics['moe'], [2, 0])
    assert metrics['count/moe'] == 6


def test_an_aux_without_totals_is_averaged():
    aux = Aux({'l2': jnp.float32(4)}, {'gate': jnp.array([1.0, 2.0])})
    given = objective(aux, l2=0.25)
    terms, (sums, _) = given.sums(3.0, {}, 4.0, None)
    assert given.value(terms, 3.0) == 20
    metrics = given.metrics(sums, 3.0)
    np.testing.assert_array_equal(metrics['moe']['gate'], [1, 2])
