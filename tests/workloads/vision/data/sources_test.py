"""Sources of images: the split, the pixels, a source of one's own."""

import numpy as np
import pytest

from moe.config import ConfigError, parse
from moe.workloads.vision.data.images import ImageConfig, load_images
from moe.workloads.vision.data.sources import (
    SOURCES,
    LabelledImages,
    held_out,
    pixels,
)


def test_pixels():
    # Bytes are shares of 255, numbers stay; a channel is added.
    x = pixels(np.array([[[0, 51], [102, 255]]], np.uint8))
    assert (x.dtype, x.shape) == (np.float32, (1, 2, 2, 1))
    np.testing.assert_allclose(x.ravel(), [0, 0.2, 0.4, 1], rtol=1e-6)
    x = pixels(np.full((1, 2, 2, 3), 7.0))
    np.testing.assert_array_equal(x, np.full((1, 2, 2, 3), 7, np.float32))


def test_held_out_images_are_no_others():
    x = np.arange(20.0).reshape(20, 1, 1)
    train, val = held_out(x, np.arange(20), 0.25)
    assert len(train[1]) == 15
    assert len(val[1]) == 5
    assert sorted([*train[1], *val[1]]) == list(range(20))
    for images, labels in (train, val):
        np.testing.assert_array_equal(images.ravel(), labels)
    with pytest.raises(ConfigError, match='at least one image') as caught:
        held_out(x[:1], np.arange(1), 0.25)
    assert caught.value.field == 'config.data.source.val_fraction'


def test_source_of_a_plugin(monkeypatch):
    monkeypatch.setattr(SOURCES, '_entries', dict(SOURCES._entries))

    @SOURCES.register('stripes')
    def stripes(*, count: int = 8) -> LabelledImages:
        x, y = np.zeros((count, 1, 2)), np.arange(count) % 2
        x[np.arange(count), 0, y] = 1
        return held_out(x, y, 0.25)

    config = parse(
        ImageConfig,
        {'source': {'name': 'stripes', 'count': 12}, 'batch_size': 4},
    )
    made = load_images(config)
    assert made.train_x.shape == (9, 1, 2, 1)
    assert len(made.val_y) == 3
    assert made.num_classes == 2
