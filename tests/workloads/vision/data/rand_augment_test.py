"""RandAugment: each operation by arithmetic, and what is drawn."""

import collections

import numpy as np
import pytest
from PIL import Image

from moe.workloads.vision.data import rand_augment
from moe.workloads.vision.data.rand_augment import (
    OPERATIONS,
    RandAugment,
    rand_augmented,
)
from tests.reference import vision_data
from tests.workloads.vision.pictures import painted

COLOR, GRAY = painted(0, 9, 9), painted(1, 9, 9, 1)


def applied(name, strength, sign=1, pixels=COLOR):
    flat = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    image = OPERATIONS[name](Image.fromarray(flat), strength, sign)
    return np.asarray(image).reshape(pixels.shape).astype(int)


def test_the_fourteen_of_the_paper():
    assert len(OPERATIONS) == 14


@pytest.mark.parametrize('pixels', [COLOR, GRAY])
@pytest.mark.parametrize(
    'name', sorted({*OPERATIONS} - {'auto_contrast', 'equalize'})
)
def test_no_strength_changes_nothing(name, pixels):
    np.testing.assert_array_equal(applied(name, 0.0, 1, pixels), pixels)


def test_solarize_inverts_bright_pixels():
    # Half of 256: pixels of 128 and more.
    x = COLOR.astype(int)
    desired = np.where(x < 128, x, 255 - x)
    np.testing.assert_array_equal(applied('solarize', 0.5), desired)


def test_posterize_keeps_high_bits():
    # Six of eight bits, then four.
    np.testing.assert_array_equal(applied('posterize', 0.5), COLOR // 4 * 4)
    np.testing.assert_array_equal(applied('posterize', 1.0), COLOR // 16 * 16)


@pytest.mark.parametrize('sign', [-1, 1])
def test_enhancements_go_from_a_plain_image(sign):
    # Factor 1 + 0.9 s: from black, from the mean grey, from each pixel's grey.
    factor = 1 + 0.9 * 0.5 * sign
    x = COLOR.astype(float)
    gray = x @ [0.299, 0.587, 0.114]
    mean = int(np.mean(np.round(gray)) + 0.5)
    for name, plain in (
        ('brightness', np.zeros_like(x)),
        ('contrast', np.full_like(x, mean)),
        ('color', np.repeat(gray[..., None], 3, axis=2)),
    ):
        desired = np.clip(plain + factor * (x - plain), 0, 255)
        # Two are integers of the library's: greys and sums are rounded.
        found = applied(name, 0.5, sign)
        np.testing.assert_allclose(found, desired, rtol=0, atol=1.5)


def test_a_strong_enhancement_ends_at_the_plain_image():
    assert not applied('brightness', 3.0, -1).any()


def test_auto_contrast_takes_all_levels():
    x = COLOR[..., :1] // 2 + 30
    low, high = int(x.min()), int(x.max())
    desired = (x.astype(float) - low) * 255 / (high - low)
    found = applied('auto_contrast', 0.3, 1, x)
    np.testing.assert_allclose(found, desired, rtol=0, atol=1)


def test_equalize_spreads_levels():
    # Four levels of as many pixels each are thirds of the way apart then.
    x = np.repeat(np.uint8([10, 11, 12, 200]), 1024).reshape(64, 64, 1)
    found = applied('equalize', 0.3, 1, x)
    assert len(np.unique(found)) == 4
    np.testing.assert_allclose(np.diff(np.unique(found)), 85, atol=2)


@pytest.mark.parametrize('sign', [-1, 1])
@pytest.mark.parametrize(
    ('name', 'back'),
    [
        ('shear_x', lambda s: [[1, 0], [0.15 * s, 1]]),
        ('shear_y', lambda s: [[1, 0.15 * s], [0, 1]]),
        (
            'rotate',
            lambda s: [
                [np.cos(np.pi / 12), np.sin(s * np.pi / 12)],
                [-np.sin(s * np.pi / 12), np.cos(np.pi / 12)],
            ],
        ),
    ],
)
def test_moves_are_bilinear_about_the_centre(name, back, sign):
    # Of (row, column), from where a pixel is to where it comes from.
    matrix = np.linalg.inv(back(sign))
    desired = vision_data.affine(COLOR.astype(float), matrix, [128] * 3)
    found = applied(name, 0.5, sign)
    # At the border the library does not mix the gray of outside in.
    np.testing.assert_allclose(
        found[2:-2, 2:-2], desired[2:-2, 2:-2], rtol=0, atol=1.01
    )


@pytest.mark.parametrize('sign', [-1, 1])
def test_translations_are_whole_pixels(sign):
    # 100 / 331 of nine pixels, at strength 1, are 2.7: three.
    x = np.full((9, 9, 3), 128)
    x[:, : 9 - 3] = COLOR[:, 3:]
    if sign < 0:
        x[:] = 128
        x[:, 3:] = COLOR[:, : 9 - 3]
    np.testing.assert_array_equal(applied('translate_x', 1.0, sign), x)
    found = applied('translate_y', 1.0, sign, COLOR.swapaxes(0, 1))
    np.testing.assert_array_equal(found, x.swapaxes(0, 1))


def test_draws(monkeypatch):
    # Operations of the names alone: each equally likely, in both directions.
    seen = []

    def note(name):
        def operation(image, strength, sign):
            seen.append((name, strength, sign))
            return image

        return operation

    noted = {name: note(name) for name in OPERATIONS}
    monkeypatch.setattr(rand_augment, 'OPERATIONS', noted)
    draw = np.random.default_rng(0)
    for _ in range(700):
        made = rand_augmented(GRAY, draw, RandAugment(layers=2, magnitude=9.0))
        assert made.shape == GRAY.shape
    counts = collections.Counter((name, sign) for name, _, sign in seen)
    assert {strength for _, strength, _ in seen} == {0.9}
    # 1,400 of 28 kinds are 50 of each; four deviations are 28.
    assert len(counts) == 28
    assert all(abs(count - 50) < 28 for count in counts.values())


def test_the_result_is_an_image_of_the_shape():
    for pixels in (COLOR, GRAY):
        draw = np.random.default_rng(1)
        made = rand_augmented(pixels, draw, RandAugment(14, 30.0))
        assert (made.shape, made.dtype) == (pixels.shape, np.uint8)
