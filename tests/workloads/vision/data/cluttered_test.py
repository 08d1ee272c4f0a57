"""Cluttered digits: placed as a whole, styled, from disjoint originals."""

import numpy as np
import pytest

from moe.config import ConfigError, parse
from moe.workloads.vision.data import cluttered
from moe.workloads.vision.data.images import ImageConfig, load_images
from moe.workloads.vision.data.sources import LabelledImages, digits

SMALL = {'train_images': 60, 'val_images': 30}


def test_made_from_disjoint_originals(monkeypatch):
    # Originals to train on are all 1 and of classes 0 to 3, the others all
    # 1/2, of classes 4 to 7.
    ones = np.ones((4, 8, 8, 1), np.float32)
    originals = LabelledImages(
        (ones, np.arange(4)), (ones / 2, np.arange(4, 8))
    )
    monkeypatch.setattr(cluttered, 'digits', lambda **_: originals)
    monkeypatch.setattr(cluttered, '_NOISE', 0.0)
    found = cluttered.cluttered(**SMALL, styles=1)
    for (x, y), count, height in zip(found, (60, 30), (1, 1 / 2), strict=True):
        assert (x.shape, x.dtype) == ((count, 16, 16, 1), np.float32)
        np.testing.assert_allclose(x.max(axis=(1, 2, 3)), height, rtol=1e-6)
        assert y.shape == (count,)
    assert set(found.train[1]) == {0, 1, 2, 3}
    assert set(found.val[1]) == {4, 5, 6, 7}


def test_always_the_same():
    first, second = (cluttered.cluttered(**SMALL) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    x = first.train[0]
    assert len(np.unique(x, axis=0)) == len(x)
    assert (x.min(), x.max()) == (0, 1)


def test_a_digit_is_placed_as_a_whole(monkeypatch):
    # Moved by shares of pixels alone, it has the same sum; and somewhere else
    # every time.
    for name, value in {
        '_ANGLE': 0.0,
        '_SHEAR': 0.0,
        '_SCALES': (1.0, 1.0),
    }.items():
        monkeypatch.setattr(cluttered, name, value)
    draw = np.random.default_rng(0)
    digit = draw.uniform(size=(8, 8))
    canvases = [cluttered.placed(digit, 14, draw) for _ in range(40)]
    sums = [canvas.sum() for canvas in canvases]
    np.testing.assert_allclose(sums, digit.sum(), rtol=1e-9)
    centers = [
        np.indices((14, 14)).reshape(2, -1) @ canvas.ravel() / canvas.sum()
        for canvas in canvases
    ]
    own = np.indices((8, 8)).reshape(2, -1) @ digit.ravel() / digit.sum()
    moves = np.array(centers) - own
    assert moves.min() > -1e-9
    assert moves.max() < 6 + 1e-9  # 14 - 8
    assert np.all(np.ptp(moves, axis=0) > 4)


def test_styles_by_hand():
    # A bright right half on four columns: the differences of neighbours two
    # apart, halved, are 0, 1/2, 1/2, 0.
    draw = np.random.default_rng(0)
    canvas = np.tile([0.0, 0.0, 1.0, 1.0], (4, 1))
    styled = lambda style: cluttered.styled(canvas, style, draw)
    np.testing.assert_array_equal(styled('bright'), canvas)
    np.testing.assert_array_equal(styled('dark'), 1 - canvas)
    np.testing.assert_array_equal(
        styled('outline'), np.tile([0.0, 0.5, 0.5, 0.0], (4, 1))
    )
    # Every second row in the dark half, every second column in the other.
    stripes = styled('stripes')
    dark, bright = stripes[:, :2], stripes[:, 2:]
    assert {tuple(row) for row in dark[::2]} != {tuple(r) for r in dark[1::2]}
    assert np.all(dark[:, 0] == dark[:, 1])
    assert np.all(bright == bright[0])
    assert (dark.sum(), bright.sum()) == (4, 4)


def test_without_distractors_and_noise_nothing_else_is_there(monkeypatch):
    monkeypatch.setattr(cluttered, '_NOISE', 0.0)
    options = {**SMALL, 'styles': 1}
    # A digit and distractors of 4 x 4 are brighter in the sum than it alone.
    alone = cluttered.cluttered(**options, distractors=0).train[0]
    more = cluttered.cluttered(**options, distractors=6).train[0]
    assert more.mean() > alone.mean()
    originals = digits().train[0]
    assert alone.max() <= originals.max()


def test_as_a_source():
    source = {'name': 'cluttered', **SMALL, 'size': 18, 'styles': 2}
    config = parse(ImageConfig, {'source': source, 'batch_size': 20})
    found = load_images(config)
    assert found.train_x.shape == (60, 18, 18, 1)
    assert found.val_x.shape == (30, 18, 18, 1)
    assert found.num_classes == 10
    for option, value in {'size': 15, 'styles': 5, 'train_images': 0}.items():
        with pytest.raises(ConfigError, match=option):
            parse(ImageConfig, {'source': {**source, option: value}})
