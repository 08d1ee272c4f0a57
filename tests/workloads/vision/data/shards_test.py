"""Shards of images: their records, their counts, and what is refused."""

import dataclasses
import hashlib
import json

import pytest

from moe.config import ConfigError
from moe.workloads.vision.data.array_record import Records
from moe.workloads.vision.data.origins import Columns, find_origin
from moe.workloads.vision.data.shards import Shard, write_shard
from moe.workloads.written_shards import finished
from tests.workloads.vision.pictures import encoded, painted, write_folder


@pytest.fixture
def shard(tmp_path):
    """Six images of two classes, and another side of one of them."""
    write_folder(tmp_path / 'images', ['a', 'b'], 3)
    path = tmp_path / 'images' / 'a' / '000.png'
    path.write_bytes(encoded(painted(0, 11, 7)))
    origin = find_origin(str(tmp_path / 'images'), None, Columns(), 2**30)
    (tmp_path / 'out').mkdir()
    out = str(tmp_path / 'out')
    parts, number = origin.parts, '00000-of-00001'
    return Shard(out, number, 'train', parts, Columns(), 2, 0.5, 'key')


def test_records_and_counts(shard):
    entry = write_shard(shard)
    path = f'{shard.folder}/train-00000-of-00001.array_record'
    records = Records([path], 2)
    found = [records.read(i) for i in range(len(records))]
    images = [painted(0, 11, 7), *map(painted, range(1, 6))]
    desired = [(encoded(x), int(i > 2)) for i, x in enumerate(images)]
    assert found == desired
    with open(path, 'rb') as file:
        data = file.read()
    about = {
        'split': 'train',
        'images': 6,
        'labels': {'0': 3, '1': 3},
        'bytes': len(data),
        'sha256': hashlib.sha256(data).hexdigest(),
    }
    assert entry == {
        'files': {'train-00000-of-00001.array_record': about},
        'sides': [6, 11],  # 6 x 8 pixels, and 11 x 7
        'gray': False,
        'image_bytes': sum(len(image) for image, _ in desired),
    }
    assert finished(shard) == json.loads(json.dumps(entry))
    assert finished(dataclasses.replace(shard, key='other')) is None


def test_a_split_by_content(shard):
    entry = write_shard(dataclasses.replace(shard, split=None))
    for name, about in entry['files'].items():
        records = Records([f'{shard.folder}/{name}'])
        for i in range(len(records)):
            digest = hashlib.sha256(records.read(i)[0]).hexdigest()
            share = int(digest[:16], 16) / 2**64
            assert about['split'] == ('val' if share < 0.5 else 'train')
    assert sum(a['images'] for a in entry['files'].values()) == 6


@pytest.mark.parametrize(
    ('name', 'data', 'words'),
    [
        ('000.png', b'text', '000.png is no image'),
        ('001.png', encoded(painted(1, 60, 60))[:-50], '001.png cannot be'),
        ('002.png', b'', '002.png is no image'),
    ],
)
def test_no_image(shard, name, data, words):
    with open(f'{shard.parts[0].path}/a/{name}', 'wb') as file:
        file.write(data)
    with pytest.raises(ConfigError, match=words) as caught:
        write_shard(shard)
    assert caught.value.field == '--files'
    assert finished(shard) is None


def test_a_label_of_no_class(shard):
    with pytest.raises(ConfigError, match='has the label 1 of 1 classes'):
        write_shard(dataclasses.replace(shard, num_classes=1))
