"""Closeness of trees of arrays, measured against the scale of each array."""

import numpy as np


def assert_close(actual, desired, tolerance, *, scale=None, name='value'):
    """Asserts `|actual - desired| <= tolerance * scale`, array by array.

    Trees are nested dictionaries, tuples and lists with the same keys. The
    scale is the largest entry of each desired array, at least 1e-2, or given.
    """
    if isinstance(desired, dict):
        assert sorted(actual) == sorted(desired), name
        for key in desired:
            inner = {'scale': scale, 'name': f'{name}.{key}'}
            assert_close(actual[key], desired[key], tolerance, **inner)
        return
    if isinstance(desired, (tuple, list)):
        assert len(actual) == len(desired), name
        for i, (a, d) in enumerate(zip(actual, desired, strict=True)):
            assert_close(a, d, tolerance, scale=scale, name=f'{name}[{i}]')
        return
    actual, desired = np.float64(actual), np.float64(desired)
    assert actual.shape == desired.shape, (name, actual.shape, desired.shape)
    if scale is None:
        scale = np.max(np.abs(desired), initial=1e-2)
    np.testing.assert_allclose(
        actual, desired, rtol=0, atol=tolerance * scale, err_msg=name
    )
