"""Activations by hand; `MLP`s of all are compared with loops elsewhere."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.config import ConfigError
from moe.experts import ACTIVATIONS
from moe.experts.activations import find, is_gated


def test_clamped_swiglu_by_hand():
    # At alpha = 0 the sigmoid is 1/2. A gate of 3 is clamped to 2, one of -8 is
    # not; up is clamped to 2 and -2, and 1 is added.
    gate, up = jnp.array([3.0, -8.0, 1.0]), jnp.array([5.0, -5.0, 1.0])
    y = ACTIVATIONS['clamped_swiglu'](gate, up, limit=2.0, alpha=0.0)
    np.testing.assert_allclose(y, [2 / 2 * 3, -8 / 2 * -1, 1 / 2 * 2])


def test_relu_squared_by_hand():
    h = jnp.array([-3.0, 0.0, 0.5, 3.0])
    relu_squared = ACTIVATIONS['relu_squared']
    np.testing.assert_array_equal(relu_squared(h), [0, 0, 0.25, 9])
    slope = jax.grad(lambda h: jnp.sum(relu_squared(h)))(h)
    np.testing.assert_array_equal(slope, [0, 0, 1, 6])


def test_which_are_gated():
    names = [name for name in ACTIVATIONS if is_gated(ACTIVATIONS[name])]
    assert names == ['clamped_swiglu', 'geglu', 'swiglu']
    clamped = functools.partial(ACTIVATIONS['clamped_swiglu'], limit=1.0)
    assert is_gated(clamped)
    assert not is_gated(jnp.sin)


def test_find():
    assert find('silu') is ACTIVATIONS['silu']
    assert find(jnp.sin) is jnp.sin
    line = '^activation = .tanh.: must be one of .*, swiglu, or a function$'
    with pytest.raises(ConfigError, match=line):
        find('tanh')
