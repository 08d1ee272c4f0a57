"""Streamed images: their standard, their batches, hosts and processes."""

import functools
import itertools

import numpy as np
import pytest

from moe.config import ConfigError
from moe.workloads.vision.data import images
from moe.workloads.vision.data.augment import Augment
from moe.workloads.vision.data.folder import Folder
from moe.workloads.vision.data.images import ImageConfig, load_images
from moe.workloads.vision.data.rand_augment import RandAugment
from moe.workloads.vision.data.sources import npz
from tests.workloads.vision.pictures import painted, write_folder

EVERYTHING = Augment(
    crop=0.3,
    flip=True,
    rand_augment=RandAugment(),
    rotation=10.0,
    mixup=0.2,
    cutmix=1.0,
)


@pytest.fixture
def folder(tmp_path):
    """Eleven images of the size that is asked for, and five of another."""
    for part, count, first in (('train', 4, 0), ('val', 2, 50)):
        size = {'height': 4, 'width': 4}
        write_folder(
            tmp_path / 'd' / part, ['a', 'b', 'c'], count, first, **size
        )
    (tmp_path / 'd' / 'train' / 'c' / '011.png').unlink()
    (tmp_path / 'd' / 'val' / 'c' / '055.png').unlink()
    return str(tmp_path / 'd')


def config(folder, **options):
    options = {'batch_size': 4, 'shift': 0, **options}
    return ImageConfig(Folder(folder), **options)


def take(stream, count):
    return list(itertools.islice(stream, count))


def same(left, right):
    for a, b in zip(left, right, strict=True):
        assert sorted(a) == sorted(b)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], name)


@pytest.mark.parametrize('per_channel', [False, True])
def test_the_standard_is_that_of_the_images(folder, per_channel):
    found = load_images(config(folder, per_channel=per_channel), 4, 3)
    pixels = np.array([painted(i, 4, 4) for i in range(11)]) / 255
    axes = (0, 1, 2) if per_channel else None
    mean, deviation = pixels.mean(axes), pixels.std(axes)
    np.testing.assert_allclose(found.standard.mean, np.atleast_1d(mean))
    desired = (pixels - mean) / deviation
    np.testing.assert_allclose(found.train_x[:], desired, rtol=0, atol=1e-5)
    val = np.array([painted(i, 4, 4) for i in range(50, 55)]) / 255
    desired = (val - mean) / deviation
    np.testing.assert_allclose(found.val_x[:], desired, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found.train_y[:], [0] * 4 + [1] * 4 + [2] * 3)
    np.testing.assert_array_equal(found.val_y[:], [0, 0, 1, 1, 2])
    assert found.num_classes == 3


def test_a_standard_that_is_given(folder):
    given = {'mean': (0.5, 0.25, 0.0), 'deviation': (0.5, 1.0, 2.0)}
    found = load_images(config(folder, **given), 4, 3)
    desired = (painted(3, 4, 4) / 255 - [0.5, 0.25, 0]) / [0.5, 1, 2]
    np.testing.assert_allclose(found.train_x[3], desired, rtol=0, atol=1e-6)
    for options, words in (
        ({'mean': (0.5,)}, 'as many numbers as mean'),
        ({'mean': (0.5,), 'deviation': (0.0,)}, 'all above 0'),
    ):
        with pytest.raises(ConfigError, match=words):
            config(folder, **options)
    with pytest.raises(ConfigError, match='3 channels, or 1'):
        load_images(config(folder, mean=(0.5,) * 2, deviation=(1.0,) * 2), 4, 3)


def test_epochs_have_every_image(folder):
    # Eleven batches of four are four epochs of eleven images.
    data = load_images(config(folder), 4, 3)
    batches = take(images.train_batches(data, config(folder), seed=1), 11)
    known = {data.train_x[i].tobytes(): data.train_y[i] for i in range(11)}
    seen = [
        (image.tobytes(), label)
        for batch in batches
        for image, label in zip(batch['image'], batch['label'], strict=True)
    ]
    for epoch in range(4):
        part = seen[11 * epoch :][:11]
        assert len({image for image, _ in part}) == 11
    assert all(known[image] == label for image, label in seen)


@pytest.mark.parametrize('augment', [Augment(), EVERYTHING])
def test_batches_are_the_same_on_any_number_of_hosts(folder, augment):
    c = config(folder, augment=augment, shift=1)
    data = load_images(c, 4, 3)
    one = take(images.train_batches(data, c, 3), 4)
    for host in range(2):
        mine = images.train_batches(data, c, 3, host, 2)
        desired = [{n: rows[host::2] for n, rows in b.items()} for b in one]
        same(take(mine, 4), desired)
        assert mine.get_state() == {'next_index': 4}


@pytest.mark.parametrize(('num_hosts', 'workers'), [(1, 0), (2, 0), (2, 3)])
def test_validation_covers_every_image_once(folder, num_hosts, workers):
    c = config(folder, workers=workers, augment=EVERYTHING)
    data = load_images(c, 4, 3)
    seen = []
    for host in range(num_hosts):
        batches = list(images.val_batches(data, c, host, num_hosts))
        assert len(batches) == 2
        for batch in batches:
            assert batch['mask'].shape == (4 // num_hosts,)
            seen += [row.tobytes() for row in batch['image'][batch['mask']]]
            assert not batch['image'][~batch['mask']].any()
    assert sorted(seen) == sorted(row.tobytes() for row in data.val_x[:])


@pytest.mark.slow
def test_processes_make_the_same_batches(folder):
    c = config(folder, augment=EVERYTHING, shift=1)
    several = config(folder, augment=EVERYTHING, shift=1, workers=2)
    data = load_images(c, 4, 3)
    one = take(images.train_batches(data, c, 3), 8)
    stream = images.train_batches(data, several, 3)
    stream.set_state({'next_index': 3})
    same(take(stream, 5), one[3:])
    assert stream.get_state() == {'next_index': 8}
    # What a process cannot decode is the same line.
    with open(data.train_x.encoded.name(0), 'wb') as file:
        file.write(b'text')
    with pytest.raises(ConfigError, match=r'000.png is no image'):
        take(stream, 40)
    stream.close()


def test_what_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match='1 or 3, as images are decoded'):
        load_images(config(folder), 4, 4)
    with pytest.raises(ConfigError, match='there are 11'):
        load_images(config(folder, batch_size=12), 4, 3)
    draw = np.random.default_rng(0)
    path = str(tmp_path / 'images.npz')
    augment = Augment(rand_augment=RandAugment())
    for x, words in (
        (draw.normal(size=(20, 2, 2, 1)), 'from 0 to 1, for rand_augment'),
        (draw.uniform(size=(20, 2, 2, 4)), '1 or 3 channels, for rand'),
    ):
        np.savez(path, x=x, y=np.arange(20) % 2)
        source = functools.partial(npz, files=path)
        with pytest.raises(ConfigError, match=words):
            load_images(ImageConfig(source, 4, augment=augment))
