"""What decodes images: formats, squares, crops, and what is refused."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from moe.config import ConfigError
from moe.workloads.vision.data.augment import crop_box
from moe.workloads.vision.data.encoded import Encoded, Labels, Streamed, opened
from moe.workloads.vision.data.standard import Standard
from tests.reference import vision_data
from tests.workloads.vision.pictures import encoded, painted

PLAIN = Standard(np.zeros(1), np.ones(1))


@dataclasses.dataclass(frozen=True)
class Some(Encoded):
    """Images in memory, whose labels are 10 and up."""

    images: tuple

    def __len__(self):
        return len(self.images)

    def read(self, index):
        return self.images[index], 10 + index

    def name(self, index):
        return f'image {index}'


def streamed(*images, size=4, channels=3, center=1.0, standard=PLAIN):
    return Streamed(Some(images), size, channels, center, standard)


def resized(pixels, box, size):
    """A rectangle resized, channel by channel: columns, then rows."""
    left, top, right, bottom = box
    made = np.zeros((size, size, pixels.shape[-1]))
    for c in range(pixels.shape[-1]):
        rows = np.array(
            [
                np.round(vision_data.resized(row, left, right, size))
                for row in pixels[..., c].astype(float)
            ]
        )
        made[..., c] = np.transpose(
            [vision_data.resized(row, top, bottom, size) for row in rows.T]
        )
    return made


@pytest.mark.parametrize(
    ('center', 'box'), [(1.0, (1, 0, 7, 6)), (0.5, (2.5, 1.5, 5.5, 4.5))]
)
def test_the_central_square(center, box):
    # Of six rows and eight columns, resized to four of each.
    pixels = painted(0)
    found, label = streamed(encoded(pixels), center=center).pixels(0)
    np.testing.assert_allclose(found, resized(pixels, box, 4), atol=1.5)
    assert label == 10


def test_an_image_of_the_size_is_taken_as_it_is():
    pixels = painted(0, 4, 4)
    found, _ = streamed(encoded(pixels)).pixels(0)
    np.testing.assert_array_equal(found, pixels)


def test_a_crop_is_a_rectangle():
    pixels = painted(0, 20, 30)
    box = crop_box(20, 30, np.random.default_rng(3), 0.3)
    data = streamed(encoded(pixels))
    found, _ = data.pixels(0, np.random.default_rng(3), 0.3)
    np.testing.assert_allclose(found, resized(pixels, box, 4), atol=1.5)


def test_like_a_standardised_array():
    images = [painted(i, 4, 4) for i in range(5)]
    standard = Standard(np.array([0.1, 0.2, 0.3]), np.array([0.5, 1, 2]))
    data = streamed(*map(encoded, images), standard=standard)
    desired = (np.array(images) / 255 - [0.1, 0.2, 0.3]) / [0.5, 1, 2]
    assert data.shape == (5, 4, 4, 3)
    assert len(data) == 5
    for index in (2, np.int64(3), slice(1, 4), np.array([4, 0]), slice(0, 0)):
        found = data[index]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, desired[index], rtol=0, atol=1e-6)
    labels = Labels(data.encoded)
    assert len(labels) == 5
    for index in (2, slice(1, 4), np.array([4, 0])):
        found = labels[index]
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, (10 + np.arange(5))[index])


def saved(image, kind='PNG', **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_formats():
    gray, color = painted(0, 4, 4, 1), painted(0, 4, 4)
    assert opened(encoded(gray), '').mode == 'L'
    assert opened(encoded(color), '').mode == 'RGB'
    assert opened(encoded(color), '', 1).mode == 'L'
    three = np.asarray(opened(encoded(gray), '', 3))
    np.testing.assert_array_equal(three, np.repeat(gray, 3, axis=2))
    # 16 bits are of 257 values each; black under a transparent pixel.
    wide = saved(Image.fromarray(gray[..., 0].astype(np.uint16) * 257))
    np.testing.assert_array_equal(np.asarray(opened(wide, '')), gray[..., 0])
    rgba = np.concatenate([color, gray], axis=2)
    found = np.asarray(opened(saved(Image.fromarray(rgba)), ''))
    np.testing.assert_array_equal(found, color)
    few = Image.fromarray(color).quantize(4)
    palette = saved(few, transparency=b'\x00\xff')
    found = np.asarray(opened(palette, ''))
    np.testing.assert_array_equal(found, np.asarray(few.convert('RGB')))


def test_a_photograph_is_turned_upright():
    # Orientation 6: the camera was turned, the top is on the right.
    image = Image.fromarray(painted(0))
    exif = image.getexif()
    exif[0x0112] = 6
    found = np.asarray(opened(saved(image, exif=exif), ''))
    np.testing.assert_array_equal(found, np.rot90(painted(0), -1))


@pytest.mark.parametrize('exif', [b'II*\0\x08\0\0\0\xff\xff', b'none'])
def test_damaged_exif_is_no_damaged_image(exif):
    pixels = painted(0)
    image = Image.fromarray(pixels)
    found = np.asarray(opened(saved(image, exif=exif), ''))
    np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize(
    ('data', 'words'),
    [
        (b'', 'is no image'),
        (b'text', 'is no image'),
        (encoded(painted(0, 40, 40))[:-900], 'cannot be decoded'),
    ],
)
def test_no_image(data, words):
    with pytest.raises(ConfigError, match=f'a/b.png {words}'):
        opened(data, 'a/b.png')
    with pytest.raises(ConfigError, match=f'image 0 {words}'):
        streamed(data)[0]
