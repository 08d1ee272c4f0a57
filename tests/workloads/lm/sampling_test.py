"""Which tokens are drawn from logits, and how often."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.workloads.lm.sampling import Sampling, choose

KEY = jax.random.key(7)
PROBABILITIES = np.array([0.05, 0.5, 0.3, 0.15])


@pytest.mark.parametrize(
    ('options', 'kept'),
    [
        ({}, {0, 1, 2, 3}),
        ({'temperature': 0.0}, {1}),
        ({'top': 1}, {1}),
        ({'top': 2, 'temperature': 9.0}, {1, 2}),
        ({'top_p': 0.49}, {1}),
        ({'top_p': 0.51}, {1, 2}),
        ({'top_p': 0.79}, {1, 2}),
        ({'top_p': 0.81}, {1, 2, 3}),
        # Of the best three, 0.95 in all, the first two have 0.84.
        ({'top': 3, 'top_p': 0.83}, {1, 2}),
        # Squared, the shares are 0.685, 0.247, 0.062, 0.007.
        ({'temperature': 0.5, 'top_p': 0.67}, {1}),
    ],
)
def test_tokens_that_are_drawn(options, kept):
    sampling = Sampling(**options)
    count = 4000
    logits = jnp.tile(
        jnp.log(jnp.asarray(PROBABILITIES, jnp.float32)), (count, 1)
    )
    keys = jax.random.split(KEY, count)
    temperature, top_p, _ = sampling.numbers
    found = choose(logits, keys, sampling.program, temperature, top_p)
    share = np.bincount(np.asarray(found), minlength=4) / count
    wanted = np.zeros(4)
    index = sorted(kept)
    wanted[index] = PROBABILITIES[index] ** (1 / max(sampling.temperature, 0.1))
    wanted /= wanted.sum()
    np.testing.assert_allclose(share, wanted, atol=0.04)
    assert set(np.flatnonzero(share)) <= kept
