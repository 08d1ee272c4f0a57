"""What depths of multi-token prediction read and predict, by hand."""

import jax.numpy as jnp
import numpy as np

from moe.models.mtp import look_ahead

# Targets of positions 0 to 4: the tokens 1 to 5.
TARGETS = jnp.array([[11, 12, 13, 14, 15]])


def test_look_ahead():
    first, second = look_ahead(TARGETS, None, 2)
    # Depth 1 reads the next token and predicts the one after it.
    np.testing.assert_array_equal(first.token, [[11, 12, 13, 14, 15]])
    np.testing.assert_array_equal(first.target, [[12, 13, 14, 15, 0]])
    np.testing.assert_array_equal(first.mask, [[1, 1, 1, 1, 0]])
    np.testing.assert_array_equal(second.token, [[12, 13, 14, 15, 0]])
    np.testing.assert_array_equal(second.target, [[13, 14, 15, 0, 0]])
    np.testing.assert_array_equal(second.mask, [[1, 1, 1, 0, 0]])


def test_look_ahead_stays_in_its_document():
    # Tokens 0 to 3 are one document, 4 and 5 another: target 3 is of another.
    mask = jnp.array([[True, True, True, False, True]])
    first, second = look_ahead(TARGETS, mask, 2)
    np.testing.assert_array_equal(first.mask, [[1, 1, 0, 0, 0]])
    np.testing.assert_array_equal(second.mask, [[1, 0, 0, 0, 0]])


def test_no_depth():
    assert look_ahead(TARGETS, None, 0) == []
