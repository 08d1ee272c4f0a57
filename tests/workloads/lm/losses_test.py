"""Losses of logits against arithmetic; of whole models elsewhere."""

import jax.numpy as jnp
import numpy as np

from moe.models.mtp import Ahead
from moe.workloads.lm.losses import further_losses, output_z, token_losses


def test_token_losses():
    # Three logits, of which the target has a share of 1/2, 1/4 and 1.
    logits = jnp.log(jnp.array([[[2, 1, 1], [2, 1, 1], [1e-30, 1, 1e-30]]]))
    found = token_losses(logits, jnp.array([[0, 2, 1]]))
    desired = [[np.log(2), np.log(4), 0]]
    np.testing.assert_allclose(found, desired, atol=1e-6)


def test_output_z():
    # The exponentials sum to e and e^3: squared logarithms of 1 and 9.
    shares = jnp.array([[[1 / 2, 1 / 2], [1 / 4, 3 / 4]]])
    logits = jnp.log(shares) + jnp.array([[[1.0], [3.0]]])
    found = output_z(logits, None)
    np.testing.assert_allclose(found.term, 5, rtol=1e-6)
    found = output_z(logits, jnp.array([[False, True]]))
    np.testing.assert_allclose(found.term, 9, rtol=1e-6)
    assert found.count == 1


def test_further_losses():
    # Of two depths, the second without a target at its last position.
    logits = jnp.log(jnp.array([[[0.5, 0.5], [0.25, 0.75]]]))
    target, mask = jnp.array([[0, 0]]), jnp.array([[True, True]])
    first = Ahead(target, target, mask)
    second = Ahead(target, target, jnp.array([[True, False]]))
    found = further_losses([first, second], [logits, logits])
    assert list(found) == ['mtp_1', 'mtp_2']
    both = (np.log(2) + np.log(4)) / 2
    np.testing.assert_allclose(found['mtp_1'].term, both, rtol=1e-6)
    np.testing.assert_allclose(found['mtp_2'].term, np.log(2), rtol=1e-6)
