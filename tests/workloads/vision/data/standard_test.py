"""Mean and deviation of pixels, of all together and of each channel."""

import numpy as np
import pytest

from moe.workloads.vision.data.standard import (
    Standard,
    standard_of,
    standard_of_bytes,
)

BYTES = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 2), np.uint8)


def by_hand(values):
    mean = sum(values) / len(values)
    return mean, (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5


@pytest.mark.parametrize('per_channel', [False, True])
def test_numbers_by_hand(per_channel):
    shares = BYTES / 255
    groups = [shares[..., c].ravel() for c in range(2)]
    groups = groups if per_channel else [shares.ravel()]
    means, deviations = zip(*(by_hand(g.tolist()) for g in groups), strict=True)
    for found in (
        standard_of(shares, per_channel),
        standard_of_bytes(iter(BYTES), per_channel),
    ):
        np.testing.assert_allclose(found.mean, means, rtol=1e-12)
        np.testing.assert_allclose(found.deviation, deviations, rtol=1e-12)


def test_the_order_of_images_does_not_matter():
    a, b = (standard_of_bytes(BYTES[::s], True) for s in (1, -1))
    np.testing.assert_array_equal(a.mean, b.mean)
    np.testing.assert_array_equal(a.deviation, b.deviation)


def test_back_to_bytes():
    standard = Standard(np.array([0.3, 0.6]), np.array([0.2, 0.1]))
    made = standard.from_bytes(BYTES)
    assert made.dtype == np.float32
    desired = (BYTES / 255 - [0.3, 0.6]) / [0.2, 0.1]
    np.testing.assert_allclose(made, desired, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(standard.to_bytes(made), BYTES)
    np.testing.assert_array_equal(standard.to_bytes(made + 100), 255)
    np.testing.assert_allclose(standard.black, [-1.5, -6])
