"""Which images validate: names, and hashes of contents."""

import hashlib

import numpy as np
import pytest

from moe.config import ConfigError
from moe.workloads.vision.data.splits import (
    by_content,
    split_named,
    split_word,
    validates,
)


@pytest.mark.parametrize(
    ('names', 'found'),
    [
        (['train', 'val'], ('train', 'val')),
        (['test', 'train', 'validation'], ('train', 'validation')),
        (['train', 'test'], ('train', 'test')),
        (['train', 'extra'], None),
        (['cats', 'dogs', 'val'], None),
    ],
)
def test_names_of_folders(names, found):
    assert split_named(names) == found


@pytest.mark.parametrize(
    ('name', 'word'),
    [
        ('a/val-00000-of-00002.array_record', 'val'),
        ('cifar10-test.array_record-00000-of-00001', 'test'),
        ('train_3.parquet', 'train'),
        ('trains.parquet', None),
        ('shard-1.array_record', None),
        ('default/train/0001.parquet', 'train'),
        ('train/val-1.parquet', 'val'),
        ('train/other/0001.parquet', None),
    ],
)
def test_names_of_files(name, word):
    assert split_word(name) == word


def share(data):
    return int(hashlib.sha256(data).hexdigest()[:16], 16) / 2**64


def test_the_content_decides(tmp_path):
    file = tmp_path / 'images'
    file.write_bytes(b'')
    data = [b'image %d' % (i % 15) for i in range(20)]  # five of them twice
    val, digest = by_content([str(file)], 20, data.__getitem__, 0.4)
    assert val.tolist() == [share(d) < 0.4 for d in data]
    assert val.tolist() == [validates(d, 0.4) for d in data]
    assert val[:5].tolist() == val[15:].tolist()
    # From the cache the second time.
    again, same = by_content([str(file)], 20, None, 0.4)
    assert (again.tolist(), same) == (val.tolist(), digest)


@pytest.mark.parametrize('fraction', [0.0, 1e-9])
def test_none_that_validates(tmp_path, fraction):
    (tmp_path / 'a').write_bytes(b'')
    with pytest.raises(ConfigError, match='at least one image'):
        by_content([str(tmp_path / 'a')], 3, lambda i: bytes([i]), fraction)


def test_hashes_are_of_files_as_they_are(tmp_path):
    (tmp_path / 'a').write_bytes(b'1')
    paths = [str(tmp_path / 'a')]
    read = lambda i: bytes([i])
    first, _ = by_content(paths, 9, read, 0.5)
    (tmp_path / 'a').write_bytes(b'12')  # changed
    second, _ = by_content(paths, 9, lambda i: bytes([i + 50]), 0.5)
    assert first.tolist() == [share(bytes([i])) < 0.5 for i in range(9)]
    assert second.tolist() == [share(bytes([i + 50])) < 0.5 for i in range(9)]
    assert not np.array_equal(first, second)
