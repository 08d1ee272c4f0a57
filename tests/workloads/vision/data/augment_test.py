"""Augmentation of one image, against loops over pixels."""

import math

import numpy as np
import pytest

from moe.workloads.vision.data.augment import (
    Augment,
    affine,
    affine_matrix,
    augmented,
    crop_box,
    cropped,
    shifted,
)
from moe.workloads.vision.data.standard import Standard
from tests.reference import vision_data

STANDARD = Standard(np.array([2.0, -1.0]), np.array([2.0, 0.5]))
BLACK = np.array([-1.0, 2.0])
IMAGE = np.random.default_rng(0).normal(size=(5, 6, 2)).astype(np.float32)


def draws(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ('angle', 'scale', 'shear'),
    [(0, 1, 0), (0.3, 1, 0), (0, 1.2, 0), (0, 0.7, 0.5), (-0.4, 1.1, -0.2)],
)
def test_affine_pixel_by_pixel(angle, scale, shear):
    # Shear, then rotation, then scaling, of (row, column).
    rotation = [
        [math.cos(angle), -math.sin(angle)],
        [math.sin(angle), math.cos(angle)],
    ]
    matrix = scale * np.array(rotation) @ [[1, 0], [math.tan(shear), 1]]
    found = affine_matrix(angle, scale, shear)
    np.testing.assert_allclose(found, matrix, rtol=1e-12)
    desired = vision_data.affine(np.float64(IMAGE), matrix, BLACK)
    actual = affine(IMAGE, found, BLACK)
    assert (actual.shape, actual.dtype) == (IMAGE.shape, np.float32)
    np.testing.assert_allclose(actual, desired, rtol=0, atol=1e-5)


def test_a_right_angle_moves_whole_pixels():
    # (row, column) goes to (-column, row) from the centre: counterclockwise.
    square = IMAGE[:, :5]
    made = affine(square, affine_matrix(math.pi / 2, 1, 0), BLACK)
    np.testing.assert_allclose(made, np.rot90(square), atol=1e-5)


def test_what_is_off_changes_nothing_and_draws_nothing():
    draw = draws()
    made = augmented(IMAGE, draw, Augment(), STANDARD)
    assert made is IMAGE
    assert draw.random() == draws().random()


def test_half_of_the_images_are_mirrored():
    mirrored = 0
    draw = draws()
    for _ in range(400):
        made = augmented(IMAGE, draw, Augment(flip=True), STANDARD)
        is_it = np.array_equal(made, IMAGE[:, ::-1])
        assert is_it or np.array_equal(made, IMAGE)
        mirrored += is_it
    # Four standard deviations of 400 coins are 40.
    assert abs(mirrored - 200) < 40


@pytest.mark.parametrize(
    ('options', 'angle', 'scale', 'shear'),
    [
        ({'rotation': 30.0}, 1, 0, 0),
        ({'scale': 0.5}, 0, 1, 0),
        ({'shear': 20.0}, 0, 0, 1),
        ({'rotation': 30.0, 'scale': 0.5, 'shear': 20.0}, 1, 1, 1),
    ],
)
def test_draws_of_a_random_affine(options, angle, scale, shear):
    draw = draws(3)
    a = math.radians(draw.uniform(-30, 30)) if angle else 0
    b = math.radians(draw.uniform(-20, 20)) if shear else 0
    s = 1 + draw.uniform(-0.5, 0.5) if scale else 1
    desired = affine(IMAGE, affine_matrix(a, s, b), BLACK)
    made = augmented(IMAGE, draws(3), Augment(**options), STANDARD)
    np.testing.assert_array_equal(made, desired)


def test_a_shift_is_a_window_of_the_bordered_image():
    bordered = np.empty((9, 10, 2))
    bordered[:] = BLACK
    bordered[2:7, 2:8] = IMAGE
    top, left = draws(5).integers(0, 4, 2, endpoint=True)
    made = shifted(IMAGE, draws(5), 2, BLACK)
    desired = bordered[top : top + 5, left : left + 6]
    np.testing.assert_array_equal(made, desired)


def test_crops_have_their_area_and_ratio():
    draw, areas = draws(), []
    for _ in range(300):
        left, top, right, bottom = crop_box(60, 80, draw, 0.25)
        assert 0 <= left < right <= 80
        assert 0 <= top < bottom <= 60
        wide, high = right - left, bottom - top
        assert 3 / 4 - 1e-9 <= wide / high <= 4 / 3 + 1e-9
        areas.append(wide * high / 4800)
    assert 0.25 - 1e-9 <= min(areas) < 0.3
    assert 0.8 < max(areas) <= 1


def test_an_image_too_narrow_for_a_crop_gives_its_middle():
    # The whole area does not fit: ten rows of at most 4/3 of that.
    assert crop_box(10, 100, draws(), 1.0) == pytest.approx(
        (50 - 20 / 3, 0, 50 + 20 / 3, 10)
    )
    assert crop_box(100, 10, draws(), 1.0) == pytest.approx(
        (0, 50 - 20 / 3, 10, 50 + 20 / 3)
    )


def test_a_crop_is_resized():
    left, top, right, bottom = crop_box(5, 6, draws(2), 0.3)
    desired = np.zeros(IMAGE.shape)
    for c in range(2):
        rows = np.array(
            [vision_data.resized(r, left, right, 6) for r in IMAGE[..., c]]
        )
        desired[..., c] = np.transpose(
            [vision_data.resized(r, top, bottom, 5) for r in rows.T]
        )
    made = cropped(IMAGE, draws(2), 0.3)
    np.testing.assert_allclose(made, desired, rtol=0, atol=1e-5)
