"""State of routers: how the bias and the penalty move after a step."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from moe.routing import (
    INITIAL_STATE,
    group_limited,
    next_state,
    relu,
    sigmoid,
    updated_bias,
    updated_penalty,
)


def test_known_bias():
    # Mean 4: an overloaded expert goes down, an underloaded one up.
    bias = updated_bias(jnp.zeros(4), jnp.array([5.0, 4.0, 3.0, 4.0]), 0.01)
    np.testing.assert_allclose(bias, [-0.01, 0, 0.01, 0], atol=1e-9)


def test_bias_is_centred_and_accumulates():
    # signs [-1, 1, 1, 1] minus their mean 1/2.
    load = jnp.array([8.0, 0.0, 0.0, 0.0])
    start = jnp.array([0.5, -0.5, 0.25, -0.25])
    bias = updated_bias(start, load, 0.1)
    change = [-0.15, 0.05, 0.05, 0.05]
    np.testing.assert_allclose(bias, start + jnp.array(change), rtol=1e-6)
    np.testing.assert_allclose(np.sum(bias), 0, atol=1e-6)


def test_bias_of_layers_is_each_layers_own():
    load = np.float32([[5, 4, 3, 4], [1, 1, 1, 1], [0, 0, 0, 4]])
    bias = updated_bias(jnp.zeros((3, 4)), load, 0.01)
    desired = [updated_bias(jnp.zeros(4), row, 0.01) for row in load]
    np.testing.assert_allclose(bias, desired, atol=1e-9)
    assert not np.any(bias[1])


def test_bias_does_not_depend_on_the_unit_of_the_load():
    load = jnp.array([5.0, 4.0, 3.0, 4.0])
    one = updated_bias(jnp.zeros(4), load, 0.01)
    np.testing.assert_array_equal(one, updated_bias(one * 0, load / 4, 0.01))


@pytest.mark.parametrize(
    ('share', 'factor'), [(0.5, 1.2), (0.75, 1.0), (0.9, 1 / 1.2)]
)
def test_penalty(share, factor):
    # Too few zeros: the penalty grows; too many: it shrinks.
    got = updated_penalty(jnp.array(0.01), jnp.array(share), 0.75, 1.2)
    np.testing.assert_allclose(got, 0.01 * factor, rtol=1e-6)


def test_initial_state():
    assert set(INITIAL_STATE) == {'bias', 'penalty'}
    bias, penalty = INITIAL_STATE['bias'](6), INITIAL_STATE['penalty'](6)
    assert bias.shape == (6,)
    assert not np.any(bias)
    assert penalty.shape == ()
    assert penalty == np.float32(1e-8)
    assert bias.dtype == penalty.dtype == jnp.float32


@pytest.mark.parametrize('router', [sigmoid, group_limited])
def test_next_bias_of_all_layers(router):
    load = jnp.array([[2.0, 1.0, 0.5, 0.5], [1.0, 1.0, 1.0, 1.0]])
    args = ('bias', jnp.zeros((2, 4)), load, jnp.array([2.0, 0.5]))
    # mean 1: signs [-1, 0, 1, 1], minus their mean 1/4, times .5.
    desired = np.array([[-0.625, -0.125, 0.375, 0.375], [0, 0, 0, 0]])
    got = next_state(functools.partial(router, bias_rate=0.5), *args)
    np.testing.assert_allclose(got, desired, atol=1e-7)
    # The router's own default rate, bare or beside other options.
    for one in (router, functools.partial(router, k=1)):
        got = next_state(one, *args)
        np.testing.assert_allclose(got, desired * 2e-3, atol=1e-9)
    assert not np.any(
        next_state(functools.partial(router, bias_rate=0.0), *args)
    )


def test_next_penalty_of_all_layers():
    # 2 of 4 gates are not zero: a share of .5; .5 of 4: .875; wanted is .75.
    got = next_state(
        functools.partial(relu, penalty_rate=1.5),
        'penalty',
        jnp.full((2,), 0.01),
        jnp.ones((2, 4)),
        jnp.array([2.0, 0.5]),
    )
    np.testing.assert_allclose(got, [0.015, 0.01 / 1.5], rtol=1e-6)


def test_next_state_is_each_one_of_any_stack():
    # Two layers of three groups of experts: as if each were alone.
    rng = np.random.default_rng(0)
    load = rng.random((2, 3, 4)).astype(np.float32)
    bias = rng.normal(size=(2, 3, 4)).astype(np.float32)
    per_token = np.ones((2, 3), np.float32)
    got = next_state(sigmoid, 'bias', bias, load, per_token)
    for i in np.ndindex(2, 3):
        one = next_state(sigmoid, 'bias', bias[i], load[i], per_token[i])
        np.testing.assert_allclose(got[i], one, rtol=1e-6)


def test_bias_balances_a_skewed_router():
    # A thousand tokens prefer expert 0 by far; moved for 300 steps, the bias
    # brings every load near 1.
    rng = np.random.default_rng(0)
    logits = rng.normal([1.5, 0.5, 0, -1], size=(1000, 4))
    scores = 1 / (1 + np.exp(-logits))

    def load(bias):
        chosen = np.argmax(scores + np.asarray(bias), axis=1)
        return np.float32(np.bincount(chosen, minlength=4) / 250)

    bias = np.zeros(4, np.float32)
    assert load(bias).max() > 2
    for _ in range(300):
        bias = np.asarray(updated_bias(bias, load(bias), 0.005))
    assert load(bias).max() < 1.1
    assert load(bias).min() > 0.9
