"""Embeddings of positions at another resolution, against SciPy's zoom."""

import numpy as np
import pytest
import scipy.ndimage

from moe.training.grids import fits, interpolated
from tests.reference.compare import assert_close


@pytest.mark.parametrize('first', [0, 1])
@pytest.mark.parametrize(('old', 'new'), [(3, 5), (7, 4), (2, 1), (1, 3)])
def test_is_the_zoom_of_vit(old, new, first):
    # ViT's own code: scipy.ndimage.zoom(grid, (new / old, new / old, 1),
    # order=1), the class token as it is.
    draw = np.random.default_rng(0)
    x = draw.standard_normal((first + old * old, 3))
    grid = x[first:].reshape(old, old, 3)
    zoomed = scipy.ndimage.zoom(grid, (new / old, new / old, 1), order=1)
    desired = np.concatenate([x[:first], zoomed.reshape(-1, 3)])
    found = interpolated(np.float32(x), first + new * new)
    assert_close(found, desired, 1e-6)


def test_which_shapes_fit():
    assert fits((16, 8), (64, 8))
    assert fits((197, 8), (577, 8))
    assert not fits((16, 8), (64, 9))
    # One has a class token; one is no grid.
    assert not fits((16, 8), (17, 8))
    assert not fits((16, 8), (15, 8))
    assert not fits((15, 8), (15, 8))
