"""Mixtures of images in pairs: shares, pixels, labels."""

import numpy as np
import pytest

from moe.workloads.vision.data.augment import Augment
from moe.workloads.vision.data.mixing import mixed, shares
from tests.reference import vision_data


def drawn(config, count, height=8, width=8):
    draw = np.random.default_rng(0)
    return np.stack([shares(draw, config, height, width) for _ in range(count)])


def test_mixup_has_one_share_of_a_beta_distribution():
    found = drawn(Augment(mixup=0.5), 2000)
    assert (found == found[:, :1, :1]).all()
    # Of Beta(a, a) the mean is 1/2 and the variance 1 / (4 (2 a + 1)): 1/8.
    values = found[:, 0, 0]
    assert abs(values.mean() - 1 / 2) < 4 * np.sqrt(1 / 8 / 2000)
    assert abs(values.var() - 1 / 8) < 0.01


def test_cutmix_has_rectangles_of_the_area():
    found = drawn(Augment(cutmix=1.0), 500, 20, 30)
    assert set(np.unique(found)) == {0, 1}
    draw = np.random.default_rng(0)
    for share in found:
        side = np.sqrt(1 - draw.beta(1.0, 1.0))
        rows, columns = int(side * 20), int(side * 30)
        i, j = draw.integers(20), draw.integers(30)
        desired = np.ones((20, 30))
        for a, b in np.ndindex(rows, columns):
            row, column = i - rows // 2 + a, j - columns // 2 + b
            if 0 <= row < 20 and 0 <= column < 30:
                desired[row, column] = 0
        np.testing.assert_array_equal(share, desired)


def test_of_both_each_has_half():
    found = drawn(Augment(mixup=0.5, cutmix=1.0), 400)
    cut = sum(set(np.unique(share)) <= {0, 1} for share in found)
    assert abs(cut - 200) < 40  # four standard deviations


@pytest.mark.parametrize('count', [2, 6])
def test_pairs_are_half_a_batch_apart(count):
    draw = np.random.default_rng(1)
    image = draw.normal(size=(count, 3, 4, 2)).astype(np.float32)
    share = draw.uniform(size=(count, 3, 4)).astype(np.float32)
    label = np.arange(count, dtype=np.int32)
    before = image.copy()
    made = mixed({'image': image, 'label': label, 'share': share})
    assert sorted(made) == ['image', 'label', 'other', 'weight']
    for i in range(count):
        j = (i + count // 2) % count
        desired = vision_data.mixed(image[i], image[j], share[i])
        np.testing.assert_allclose(made['image'][i], desired, atol=1e-6)
        assert (made['label'][i], made['other'][i]) == (i, j)
        np.testing.assert_allclose(
            made['weight'][i], np.float64(share[i]).mean(), rtol=1e-6
        )
    assert made['image'].dtype == made['weight'].dtype == np.float32
    assert made['other'].dtype == np.int32
    np.testing.assert_array_equal(image, before)
