"""What images are converted from: every kind, its names, and its errors."""

import json

import numpy as np
import pytest

from moe.config import ConfigError
from moe.workloads.vision.data.encoded import opened
from moe.workloads.vision.data.origins import Columns, find_origin, read_part
from tests.workloads.vision.pictures import (
    encoded,
    example,
    painted,
    write_folder,
    write_records,
    write_tfrecord,
)

COLUMNS = Columns()
LARGE = 2**30


def find(path, kind=None, columns=COLUMNS, size=LARGE):
    return find_origin(str(path), kind, columns, size)


def images(origin, columns=COLUMNS):
    """(split, encoded image, label) of every image."""
    return [
        (part.split, data, label)
        for part in origin.parts
        for data, label, _ in read_part(part, columns)
    ]


def numbered(split, numbers):
    return [(split, encoded(painted(n)), n % 3) for n in numbers]


@pytest.mark.parametrize('size', [1, 400, LARGE])
def test_a_folder(tmp_path, size):
    made = write_folder(tmp_path / 'train', ['ant', 'bee'], 3)
    write_folder(tmp_path / 'val', ['ant', 'bee'], 1, first=50)
    origin = find(tmp_path, size=size)
    assert origin.classes == ('ant', 'bee')
    found = images(origin)
    desired = [('train', encoded(painted(n)), label) for n, label in made]
    desired += [('val', encoded(painted(50 + i)), i) for i in range(2)]
    assert found == desired
    if size == 1:
        assert len(origin.parts) == 8


def test_a_folder_without_parts(tmp_path):
    made = write_folder(tmp_path, ['ant', 'bee'], 2)
    desired = [(None, encoded(painted(n)), label) for n, label in made]
    assert images(find(tmp_path)) == desired


@pytest.mark.parametrize('channels', [1, 3])
def test_arrays(tmp_path, channels):
    x = np.array([painted(i, 4, 5, channels) for i in range(7)])
    x = x[..., 0] if channels == 1 else x
    y = np.arange(7) % 3
    path = tmp_path / 'a.npz'
    np.savez(path, x=x[:5], y=y[:5], x_val=x[5:], y_val=y[5:])
    found = images(find(path, size=x[:2].nbytes))
    assert [(s, label) for s, _, label in found] == (
        [('train', i % 3) for i in range(5)]
        + [('val', i % 3) for i in range(5, 7)]
    )
    for (_, data, _), image in zip(found, x, strict=True):
        np.testing.assert_array_equal(np.asarray(opened(data, '')), image)
    np.savez(path, x=x, y=y)
    assert [split for split, _, _ in images(find(path))] == [None] * 7


def write_parquet(path, numbers, names=None, raw=False):
    pyarrow = pytest.importorskip('pyarrow')
    parquet = pytest.importorskip('pyarrow.parquet')
    cells = [encoded(painted(n)) for n in numbers]
    if not raw:
        cells = [{'bytes': cell, 'path': None} for cell in cells]
    table = pyarrow.table({'image': cells, 'label': [n % 3 for n in numbers]})
    if names is not None:
        label = {'names': names, '_type': 'ClassLabel'}
        features = {'image': {'_type': 'Image'}, 'label': label}
        text = json.dumps({'info': {'features': features}})
        table = table.replace_schema_metadata({'huggingface': text})
    path.parent.mkdir(exist_ok=True)
    parquet.write_table(table, path, row_group_size=2)


@pytest.mark.parametrize('raw', [False, True])
def test_parquet(tmp_path, raw):
    data = tmp_path / 'data'
    names = None if raw else ['a', 'b', 'c']
    write_parquet(data / 'train-00000-of-00002.parquet', range(3), names, raw)
    write_parquet(data / 'train-00001-of-00002.parquet', [3, 4], names, raw)
    write_parquet(data / 'validation-0-of-1.parquet', [9], names, raw)
    write_parquet(data / 'test-00000-of-00001.parquet', [10], names, raw)
    (tmp_path / 'README.md').write_text('')
    origin = find(tmp_path)
    assert origin.classes == (None if raw else ('a', 'b', 'c'))
    assert origin.left_out == ('test',)
    assert images(origin) == numbered('train', range(5)) + numbered('val', [9])


@pytest.mark.parametrize('kind', ['tfrecord', 'array_record'])
def test_tensorflow_datasets(tmp_path, kind):
    write = {'tfrecord': write_tfrecord, 'array_record': write_records}[kind]
    for split, numbers in (('train', range(4)), ('test', [7, 8])):
        records = [
            example(image=encoded(painted(n)), label=n % 3, id=b'x', f=0.5)
            for n in numbers
        ]
        write(tmp_path / f'some-{split}.{kind}-00000-of-00001', records)
    label = {'classLabel': {'numClasses': '3'}}
    features = {'featuresDict': {'features': {'label': label}}}
    (tmp_path / 'features.json').write_text(json.dumps(features))
    (tmp_path / 'dataset_info.json').write_text('{}')
    origin = find(tmp_path)
    assert origin.classes == ('0', '1', '2')
    desired = numbered('train', range(4)) + numbered('val', [7, 8])
    assert images(origin) == desired
    (tmp_path / 'label.labels.txt').write_text('cat\ndog\nemu\n')
    assert find(tmp_path).classes == ('cat', 'dog', 'emu')
    # A glob of some of them.
    origin = find(tmp_path / f'*train*{kind}*')
    assert images(origin) == numbered(None, range(4))


def test_other_columns(tmp_path):
    record = example(picture=encoded(painted(1)), kind=4)
    write_tfrecord(tmp_path / 'a.tfrecord', [record])
    columns = Columns('picture', 'kind')
    origin = find(tmp_path / 'a.tfrecord', columns=columns)
    assert images(origin, columns) == [(None, encoded(painted(1)), 4)]
    with pytest.raises(ConfigError, match="not one 'image'; it has picture"):
        images(origin)


RECORD = example(image=encoded(painted(1)), label=1)
FRAME = len(RECORD).to_bytes(8, 'little') + bytes(4) + RECORD + bytes(4)


@pytest.mark.parametrize(
    ('data', 'words'),
    [
        (FRAME[:-1], 'record 0 is cut off'),
        (FRAME + FRAME[:7], 'record 1 is cut off'),
        (b'\xff' * 40, 'is damaged, or no TFRecord'),
        (FRAME[:12] + bytes(len(RECORD) + 4), "one 'image'; it has nothing"),
        (FRAME[:12] + b'a' * (len(RECORD) + 4), 'is no tf.train.Example'),
    ],
)
def test_damaged_tfrecord(tmp_path, data, words):
    (tmp_path / 'a.tfrecord').write_bytes(data)
    with pytest.raises(ConfigError, match=words):
        images(find(tmp_path / 'a.tfrecord'))


def test_what_is_refused(tmp_path):
    def told(words, path=tmp_path, **options):
        with pytest.raises(ConfigError, match=words) as caught:
            images(find(path, **options))
        assert caught.value.field == '--files'

    told('none that is known by its name')
    told('no such file', tmp_path / 'none')
    (tmp_path / 'a.txt').write_text('')
    told('none that is known by its name')
    (tmp_path / 'a.parquet').write_text('')
    told('is no Parquet file|needs pyarrow')
    (tmp_path / 'b.tfrecord').write_text('')
    told('one kind, of .* parquet and tfrecord')
    (tmp_path / 'c.array_record').write_text('')
    told('cannot be read', kind='array_record')
    np.savez(tmp_path / 'd.npz', x=np.zeros((3, 2, 2)), y=np.arange(3))
    told('uint8 and 1 or 3', tmp_path / 'd.npz')
    (tmp_path / 'test.tfrecord').write_text('')
    told('to train on', tmp_path / 'test.tfrecord')


def test_columns_that_are_not_there(tmp_path):
    write_parquet(tmp_path / 'd' / 'x.parquet', [1])
    origin = find(tmp_path / 'd')
    with pytest.raises(ConfigError, match="no column 'kind' but image, label"):
        images(origin, Columns('image', 'kind'))
    with pytest.raises(ConfigError, match='no bytes of an image'):
        images(origin, Columns('label', 'label'))
    with pytest.raises(ConfigError, match='no label that is an integer'):
        images(origin, Columns('image', 'image'))
