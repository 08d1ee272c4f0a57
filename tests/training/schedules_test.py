"""The learning rate of each schedule over the steps of a run."""

import functools

import numpy as np
import pytest

from moe.config import ConfigError
from moe.training.optimizer import AdamW
from moe.training.schedules import (
    SCHEDULES,
    constant,
    warmup_stable_decay,
)

# Peak 1 after 4 steps of warm-up, from a fourth of it: .25 + .75 * t / 4. Then
# 8 steps to a tenth: cosine .1 + .9 * (1 + cos(pi * t / 8)) / 2, linear
# 1 - .9 * t / 8; past the end the last value.
WARMUP = {0: 0.25, 1: 0.4375, 3: 0.8125, 4: 1.0}
HALF = np.cos(np.pi / 4)


@pytest.mark.parametrize(
    ('name', 'desired'),
    [
        ('constant', {5: 1.0, 11: 1.0, 12: 1.0, 99: 1.0}),
        ('linear', {6: 0.775, 8: 0.55, 11: 0.2125, 12: 0.1, 99: 0.1}),
        (
            'cosine',
            {6: 0.1 + 0.45 * (1 + HALF), 8: 0.55, 10: 0.1 + 0.45 * (1 - HALF)}
            | {12: 0.1, 99: 0.1},
        ),
        # sqrt(4 / (4 + 1)), sqrt(4 / (4 + 12)).
        ('inverse_sqrt', {5: 0.8**0.5, 16: 0.5}),
        # A fifth of 12 steps are 2, from step 10: 1 - sqrt(1 / 2) after one.
        (
            'warmup_stable_decay',
            {9: 1.0, 10: 1.0, 11: 1 - 0.5**0.5, 12: 0.0, 99: 0.0},
        ),
    ],
)
def test_schedules(name, desired):
    value = SCHEDULES[name](1.0, 12, warmup_steps=4)
    for step, rate in (WARMUP | desired).items():
        np.testing.assert_allclose(value(step), rate, rtol=2e-6, err_msg=step)
    # A peak scales all of it.
    value = SCHEDULES[name](3e-3, 12, warmup_steps=4)
    np.testing.assert_allclose(value(1), 3e-3 * 0.4375, rtol=2e-6)


# Of 4 steps of decay from step 8 to a fifth: .2 + .8 s(n / 4).
@pytest.mark.parametrize(
    ('shape', 'shares'),
    [
        ('linear', (1.0, 0.75, 0.5, 0.25)),
        ('1-sqrt', (1.0, 0.5, 1 - 0.5**0.5, 1 - 0.75**0.5)),
        ('cosine', (1.0, (1 + HALF) / 2, 0.5, (1 - HALF) / 2)),
    ],
)
def test_decay_after_a_constant(shape, shares):
    value = warmup_stable_decay(
        2.0, 12, warmup_steps=4, decay_steps=4, shape=shape, final_fraction=0.2
    )
    rates = [float(value(step)) for step in range(8, 14)]
    expected = [2 * (0.2 + 0.8 * share) for share in (*shares, 0.0, 0.0)]
    np.testing.assert_allclose(rates, expected, rtol=2e-6)
    # Of a longer run the steps before the decay are the same, to the bit.
    longer = warmup_stable_decay(2.0, 40, warmup_steps=4, shape=shape)
    stable = constant(2.0, 5, warmup_steps=4)
    for step in range(9):
        assert value(step) == longer(step) == stable(step)


def test_a_decay_that_does_not_fit():
    schedule = functools.partial(warmup_stable_decay, decay_steps=30)
    AdamW(schedule=schedule).learning_rates(80)
    with pytest.raises(ConfigError, match=r'decay_steps = 30: must be at most'):
        AdamW(schedule=schedule).learning_rates(79)


@pytest.mark.parametrize('name', ['linear', 'cosine'])
def test_final_fraction(name):
    value = SCHEDULES[name](2.0, 12, warmup_steps=4, final_fraction=0.25)
    np.testing.assert_allclose(value(12), 0.5, rtol=2e-6)


@pytest.mark.parametrize('name', list(SCHEDULES))
def test_schedules_without_warm_up_start_at_the_peak(name):
    value = SCHEDULES[name](0.5, 10, warmup_steps=0)
    np.testing.assert_allclose(value(0), 0.5, rtol=1e-6)


def test_warm_up_longer_than_the_run_is_refused():
    AdamW().learning_rates(51)
    with pytest.raises(ConfigError, match=r'schedule\.warmup_steps = 50: must'):
        AdamW().learning_rates(50)
