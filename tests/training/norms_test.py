"""Norms by part of the model."""

import jax.numpy as jnp
import numpy as np

from moe.training.norms import named, squares


def test_norms_by_part():
    tree = {'a': jnp.array([3.0, 4.0]), 'b': {'c': jnp.array([[12.0]])}}
    tree['d'] = jnp.array([84.0], jnp.bfloat16)
    parts = {'a': 'head', 'b': {'c': 'head'}, 'd': 'router'}
    sums = squares(tree, parts)
    assert sums == {'head': 169.0, 'router': 84.0**2}
    norms = named('norm', sums)
    # 13 of 5 and 12; 85 of 13 and 84.
    assert list(norms) == ['norm', 'norm/head', 'norm/router']
    np.testing.assert_allclose(list(norms.values()), [85, 13, 84], rtol=1e-6)
    assert named('norm', {})['norm'] == 0
