"""The moving average of the parameters."""

import jax.numpy as jnp
import numpy as np

from moe.training.average import AverageConfig, moved


def test_moving_average():
    # (1 + t) / (10 + t) is 2/11 and 3/12 after one and two updates, and above
    # .25 after three.
    config = AverageConfig(decay=0.25)
    average = {'a': jnp.array([8.0, 0.0])}
    expected = np.array([8.0, 0.0])
    for t, decay in ((1, 2 / 11), (2, 0.25), (3, 0.25)):
        params = {'a': jnp.array([1.0, t])}
        average = moved(config, average, params, jnp.int32(t))
        expected = decay * expected + (1 - decay) * np.array([1.0, t])
        np.testing.assert_allclose(average['a'], expected, rtol=1e-6)
