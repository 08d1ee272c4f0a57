"""Shards of encoded images: ours and those of TensorFlow Datasets."""

import hashlib
import json

import pytest

from moe.config import ConfigError
from moe.workloads.vision.data.array_record import ImageRecords
from tests.workloads.vision.pictures import (
    encoded,
    example,
    painted,
    write_records,
)


def record(number, label):
    return example(image=encoded(painted(number)), label=label)


def open_records(files, **options):
    return ImageRecords(str(files), **options).open()


def contents(part):
    return [part.read(i) for i in range(len(part))]


@pytest.fixture
def folder(tmp_path):
    """Two shards to train on, one to validate on, as TFDS names them."""
    name = 'some-{}.array_record-0000{}-of-0000{}'
    for split, i, count, numbers in (
        ('train', 0, 2, range(3)),
        ('train', 1, 2, range(3, 5)),
        ('test', 0, 1, range(10, 12)),
    ):
        path = tmp_path / name.format(split, i, count)
        write_records(path, [record(n, n % 3) for n in numbers])
    return tmp_path


def test_parts_by_names(folder):
    found = open_records(folder)
    desired = [(encoded(painted(n)), n % 3) for n in range(5)]
    assert contents(found.train) == desired
    desired = [(encoded(painted(n)), n % 3) for n in (10, 11)]
    assert contents(found.val) == desired
    assert found.num_classes == 3  # by the labels: 0, 1 and 2


def features(**label):
    """`features.json` of TensorFlow Datasets, as it writes it."""
    both = {'image': {'image': {}}, 'label': {'classLabel': label}}
    return json.dumps({'featuresDict': {'features': both}})


@pytest.mark.parametrize(
    ('files', 'classes'),
    [
        ({'manifest.json': '{"classes": ["a", "b", "c", "d"]}'}, 'abcd'),
        ({'manifest.json': '{"classes": ["0", "1", "2", "3"]}'}, ''),
        ({'features.json': features(numClasses='4')}, ''),
        (
            {
                'features.json': features(numClasses='4'),
                'label.labels.txt': 'a\nb\nc\nd\n',
            },
            'abcd',
        ),
    ],
)
def test_classes_of_the_folder(folder, files, classes):
    for name, text in files.items():
        (folder / name).write_text(text)
    found = open_records(folder)
    assert found.num_classes == 4
    assert found.classes == tuple(classes)


def test_a_glob_is_split_by_content(folder):
    shares = [
        int(hashlib.sha256(encoded(painted(n))).hexdigest()[:16], 16) / 2**64
        for n in range(5)
    ]
    half = sorted(shares)[2]  # of which two are below it
    found = open_records(folder / '*train*', val_fraction=half)
    train, val = contents(found.train), contents(found.val)
    desired = [(encoded(painted(n)), n % 3) for n in range(5)]
    assert val == [d for d, s in zip(desired, shares, strict=True) if s < half]
    assert train == [d for d in desired if d not in val]
    assert len(val) == 2


def test_digest_tells_changes(folder):
    first = open_records(folder).digest
    assert open_records(folder).digest == first
    path = folder / 'some-train.array_record-00001-of-00002'
    write_records(path, [record(n, 0) for n in range(90)])
    assert open_records(folder).digest != first


def test_labels_and_records_that_are_none(folder):
    (folder / 'manifest.json').write_text(json.dumps({'classes': ['a', 'b']}))
    found = open_records(folder)
    with pytest.raises(ConfigError, match='has the label 2 of 2 classes'):
        found.train.read(2)
    path = folder / 'some-train.array_record-00000-of-00002'
    bad = [b'\xff\xff', example(label=1), example(image=b'a', label=-1)]
    bad.append(example(image=3, label=1))
    write_records(path, bad)
    found = open_records(folder)
    told = ('is no tf', 'one image and one', 'the label -1', 'another kind')
    for i, words in enumerate(told):
        with pytest.raises(ConfigError, match=words):
            found.train.read(i)


def test_what_is_refused(tmp_path, folder):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ConfigError, match='it has none'):
        open_records(tmp_path / 'empty')
    with pytest.raises(ConfigError, match='no such file'):
        open_records(tmp_path / 'none')
    with pytest.raises(ConfigError, match='to train on'):
        open_records(folder / '*test*')
    (folder / 'train.array_record').write_bytes(b'no records')
    with pytest.raises(ConfigError, match='cannot be read'):
        open_records(folder)
