"""The oracle against itself: its gradients against finite differences."""

import numpy as np
import pytest

from tests.reference import layer, routing, scenarios
from tests.reference.compare import assert_close


def central_differences(function, at, step=1e-6):
    """Gradient of a scalar function of one float64 array."""
    gradient = np.zeros_like(at)
    for i in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[i] += step
        down[i] -= step
        gradient[i] = (function(up) - function(down)) / (2 * step)
    return gradient


@pytest.mark.parametrize(
    ('scenario', 'activation', 'k', 'renormalize', 'scope'),
    [
        ('even', 'geglu', 2, True, 'global'),
        ('empty', 'silu', 3, False, 'group'),
        ('overfull', 'relu', 1, True, 'global'),
    ],
)
def test_gradients(scenario, activation, k, renormalize, scope):
    # The error of a central difference is about 1e-10 of the objective over
    # the step: 1e-8 relative leaves room, and no wrong term fits into it.
    x, mask, router, experts, dy = scenarios.float64(
        scenarios.problem(scenario, activation=activation, use_bias=True)
    )
    options = {
        'k': k,
        'renormalize': renormalize,
        'slots': 2,
        'activation': activation,
        'scope': scope,
    }
    coefficients = {'load_balance': 0.7, 'router_z': 0.3}

    def objective(x=x, router=router, **changed):
        return layer.objective(
            x, router, {**experts, **changed}, mask, options, dy, coefficients
        )

    actual = layer.gradients(
        x, router, experts, mask, options, dy, coefficients
    )
    desired = {
        'x': central_differences(lambda v: objective(x=v), x),
        'router': central_differences(lambda v: objective(router=v), router),
        'experts': {
            name: central_differences(lambda v, n=name: objective(**{n: v}), p)
            for name, p in experts.items()
        },
    }
    assert_close(actual, desired, 1e-8)


def test_the_two_orders_of_softmax_and_selection_agree():
    # Renormalised probabilities of the selected are the softmax over them.
    logits = np.array([0.3, -1.0, 2.0, 0.7])
    first = routing.softmax_then_select(logits, 2, renormalize=True)
    second = routing.select_then_softmax(logits, 2)
    assert first[0] == second[0] == [2, 3]
    np.testing.assert_allclose(first[1], second[1], rtol=1e-14)
