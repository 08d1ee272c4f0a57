"""Batches of labelled images: hosts, epochs, shifts, padding."""

import collections
import itertools

import numpy as np
import pytest

from moe.config import ConfigError
from moe.workloads.vision.data import images
from moe.workloads.vision.data.augment import Augment
from moe.workloads.vision.data.images import ImageConfig, Images
from moe.workloads.vision.data.standard import Standard

SIZE = 3
COUNT = 11
# Image i is 100 i + 1 ... 100 i + 9: every pixel tells which and where it is.
PIXELS = np.arange(1, 10).reshape(1, SIZE, SIZE, 1)
TRAIN = np.float32(100 * np.arange(COUNT).reshape(-1, 1, 1, 1) + PIXELS)
BLACK = -7.0
SMALL = Images(
    train_x=TRAIN,
    train_y=np.arange(COUNT, dtype=np.int32),
    val_x=TRAIN[:10] + 1,
    val_y=np.arange(10, 20, dtype=np.int32),
    num_classes=20,
    fingerprint='',
    standard=Standard(np.array([-BLACK]), np.ones(1)),
)


def config(batch_size=4, shift=0):
    return ImageConfig(batch_size=batch_size, shift=shift)


def take(stream, count):
    return list(itertools.islice(stream, count))


def moved(image, down, right):
    """An image moved by so many pixels, pixel by pixel."""
    made = np.full_like(image, BLACK)
    for i, j in np.ndindex(image.shape[:2]):
        if 0 <= i + down < SIZE and 0 <= j + right < SIZE:
            made[i + down, j + right] = image[i, j]
    return made


def move(image, label, shift):
    """By how much a batch's image is moved."""
    ways = range(-shift, shift + 1)
    found = [
        (down, right)
        for down, right in itertools.product(ways, ways)
        if np.array_equal(image, moved(TRAIN[label], down, right))
    ]
    (only,) = found
    return only


def rows(*streams, count, shift=0):
    """(image, move) of the first batches, the hosts' shares side by side."""
    shares = zip(*(take(s, count) for s in streams), strict=True)
    return [
        [
            (int(label), move(image, label, shift))
            for share in t
            for image, label in zip(share['image'], share['label'], strict=True)
        ]
        for t in shares
    ]


@pytest.mark.parametrize('num_hosts', [2, 4])
def test_batches_are_the_same_on_any_number_of_hosts(num_hosts):
    # Twelve batches of four: past the ends of four epochs of eleven.
    c = config(shift=1)
    one = rows(images.train_batches(SMALL, c, seed=3), count=12, shift=1)
    hosts = [
        images.train_batches(SMALL, c, 3, host, num_hosts)
        for host in range(num_hosts)
    ]
    several = rows(*hosts, count=12, shift=1)
    assert [sorted(t) for t in several] == [sorted(t) for t in one]
    states = [host.get_state() for host in hosts]
    assert states == [{'next_index': 12}] * num_hosts


def test_shape_of_a_batch():
    stream = images.train_batches(SMALL, config(shift=1), 0, 1, num_hosts=2)
    batch = next(stream)
    assert sorted(batch) == ['image', 'label']
    image, label = batch['image'], batch['label']
    assert (image.shape, image.dtype) == ((2, SIZE, SIZE, 1), np.float32)
    assert (label.shape, label.dtype) == ((2,), np.int32)


@pytest.mark.parametrize('steps', [0, 1, 7])
def test_resumes_exactly(steps):
    make = lambda: images.train_batches(SMALL, config(shift=1), seed=3)
    whole = rows(make(), count=12, shift=1)
    first = make()
    assert rows(first, count=steps, shift=1) == whole[:steps]
    state = first.get_state()
    assert state == {'next_index': steps}
    second = make()
    take(second, 2)  # wherever it stood
    second.set_state(state)
    assert rows(second, count=12 - steps, shift=1) == whole[steps:]


def test_epochs_cover_everything_once_and_in_different_orders():
    # 33 batches of 4 are 12 epochs of 11 images.
    stream = rows(images.train_batches(SMALL, config(), seed=3), count=33)
    flat = [label for label, _ in itertools.chain(*stream)]
    epochs = [tuple(flat[i : i + 11]) for i in range(0, 132, 11)]
    assert all(sorted(e) == list(range(11)) for e in epochs)
    assert len(set(epochs)) == len(epochs)


@pytest.mark.parametrize(('shift', 'ways'), [(1, 9), (2, 25)])
def test_images_are_moved_every_way(shift, ways):
    # 330 batches of 4 are 120 epochs: 1320 moves, of which each way has
    # 1320 / ways, four standard deviations more or less.
    stream = images.train_batches(SMALL, config(shift=shift), seed=3)
    flat = list(itertools.chain(*rows(stream, count=330, shift=shift)))
    counts = collections.Counter(way for _, way in flat)
    assert len(counts) == ways
    mean = 1320 / ways
    deviation = np.sqrt(1320 * (1 / ways) * (1 - 1 / ways))
    for way, count in counts.items():
        assert abs(count - mean) < 4 * deviation, way
    # Every image is moved, and not the same way every epoch.
    for label in range(COUNT):
        assert len({way for i, way in flat if i == label}) > ways // 2


def test_seeds_give_orders_and_moves():
    def stream(seed):
        made = images.train_batches(SMALL, config(shift=1), seed=seed)
        return list(itertools.chain(*rows(made, count=5, shift=1)))

    assert stream(3) == stream(3)
    for part in (0, 1):
        a, b = ([row[part] for row in stream(seed)] for seed in (3, 4))
        assert a != b


def test_the_shift_moves_no_order():
    labels_of = lambda shift: [
        t['label'].tolist()
        for t in take(images.train_batches(SMALL, config(shift=shift), 3), 5)
    ]
    assert labels_of(2) == labels_of(0)


EVERYTHING = Augment(
    crop=0.5, flip=True, rotation=20.0, scale=0.2, mixup=0.5, cutmix=1.0
)


def test_mixtures_are_the_same_on_any_number_of_hosts():
    c = ImageConfig(batch_size=4, shift=1, augment=EVERYTHING)
    one, *hosts = [
        take(images.train_batches(SMALL, c, 3, host, num_hosts), 4)
        for host, num_hosts in ((0, 1), (0, 2), (1, 2))
    ]
    for batch, *shares in zip(one, *hosts, strict=True):
        assert sorted(batch) == ['image', 'label', 'other', 'weight']
        for name, whole in batch.items():
            for host in range(2):
                np.testing.assert_array_equal(
                    whole[host::2], shares[host][name], name
                )


def test_a_host_mixes_an_even_number_of_images():
    with pytest.raises(ConfigError, match='even, as images are mixed'):
        ImageConfig(batch_size=3, augment=Augment(mixup=0.1))
    c = ImageConfig(batch_size=2, augment=Augment(mixup=0.1))
    with pytest.raises(ConfigError, match='an even number for each of 2'):
        images.train_batches(SMALL, c, 0, 0, 2)


@pytest.mark.parametrize('num_hosts', [1, 2, 4])
def test_validation_covers_every_image_once(num_hosts):
    # Ten images are three batches of four.
    found, counts = collections.Counter(), []
    for host in range(num_hosts):
        batches = list(images.val_batches(SMALL, config(), host, num_hosts))
        counts.append(len(batches))
        for batch in batches:
            assert sorted(batch) == ['image', 'label', 'mask']
            image, label, mask = (batch[n] for n in sorted(batch))
            assert image.shape == (4 // num_hosts, SIZE, SIZE, 1)
            assert label.shape == mask.shape == (4 // num_hosts,)
            assert image.dtype == np.float32
            assert (label.dtype, mask.dtype) == (np.int32, bool)
            np.testing.assert_array_equal(
                image[mask], SMALL.val_x[label[mask] - 10]
            )
            found.update(label[mask].tolist())
    assert counts == [3] * num_hosts
    assert found == {i: 1 for i in range(10, 20)}


def test_validation_padding_is_masked():
    # Twelve rows of ten images: shifts are of training alone.
    c = config(batch_size=12, shift=2)
    (batch,) = images.val_batches(SMALL, c)
    np.testing.assert_array_equal(batch['mask'], [True] * 10 + [False] * 2)
    np.testing.assert_array_equal(batch['image'][:10], SMALL.val_x)
    assert not np.any(batch['image'][10:])
    assert not np.any(batch['label'][10:])
