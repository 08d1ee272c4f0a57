"""The stable sort against NumPy's, with the kernels and without."""

import jax
import numpy as np
import pytest

from moe.ops import native, stable_sort


@pytest.mark.parametrize('takes', [True, False])
@pytest.mark.parametrize('size', [1, 257])
def test_sort(monkeypatch, takes, size):
    if not takes:
        monkeypatch.setattr(native, 'takes', lambda *_: False)
    keys = np.random.default_rng(size).integers(0, 9, size).astype(np.int32)
    rising, places, starts = jax.jit(lambda k: stable_sort(k, 9))(keys)
    order = np.argsort(keys, kind='stable')
    np.testing.assert_array_equal(rising, keys[order])
    np.testing.assert_array_equal(places, order)
    np.testing.assert_array_equal(starts, [np.sum(keys < n) for n in range(9)])
