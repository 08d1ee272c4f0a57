"""The command that makes shards of images: its folder, and again."""

import hashlib
import json

import pytest

from moe import convert_images
from moe.workloads.vision.data.array_record import ImageRecords
from tests.workloads.vision.pictures import (
    encoded,
    example,
    painted,
    write_folder,
    write_tfrecord,
)


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path / 'd' / 'train', ['ant', 'bee', 'cow'], 4)
    write_folder(tmp_path / 'd' / 'val', ['ant', 'bee', 'cow'], 1, first=50)
    return tmp_path / 'd'


@pytest.fixture
def small(monkeypatch):
    """Shards of a hundredth of a MiB, with a few images of 200 bytes."""
    find, group = convert_images.find_origin, convert_images._grouped
    monkeypatch.setattr(
        convert_images, 'find_origin', lambda *given: find(*given[:-1], 500)
    )
    monkeypatch.setattr(
        convert_images, '_grouped', lambda parts, size: group(parts, 500)
    )


def run(files, *arguments, out='out'):
    out = files.parent / out
    given = [f'--files={files}', f'--out={out}', '--processes=1', *arguments]
    return convert_images.main(['moe.convert_images', *given]), out


def test_manifest_and_options(folder, small, capsys):
    code, out = run(folder)
    assert code == 0
    printed = capsys.readouterr().out
    assert '12 train, 3 val images of 3 classes' in printed
    assert '--config.model.image_size=224 --config.model.channels=3' in printed
    assert '--config.model.num_classes=3' in printed
    manifest = json.loads((out / 'manifest.json').read_text())
    shards = manifest.pop('shards')
    names = {path.name for path in out.glob('[a-z]*array_record')}
    assert names == {name for entry in shards for name in entry['files']}
    assert len(names) > 3
    for entry in shards:
        for name, about in entry['files'].items():
            data = (out / name).read_bytes()
            assert about['sha256'] == hashlib.sha256(data).hexdigest()
    every = [encoded(painted(n)) for n in [*range(12), 50, 51, 52]]
    assert manifest == {
        'format': 'array_record',
        'record': "tf.train.Example with 'image' and 'label'",
        'classes': ['ant', 'bee', 'cow'],
        'images': {'train': 12, 'val': 3},
        'images_by_class': {'train': [4, 4, 4], 'val': [1, 1, 1]},
        'sides': [6, 8],
        'gray': False,
        'image_bytes': sum(map(len, every)),
    }
    # The source reads them back, in order.
    found = ImageRecords(str(out)).open()
    assert found.num_classes == 3
    desired = [(encoded(painted(n)), n // 4) for n in range(12)]
    assert [found.train.read(i) for i in range(12)] == desired
    assert found.val.read(2) == (encoded(painted(52)), 2)


def test_it_goes_on_where_it_ended(folder, small, monkeypatch):
    write, written = convert_images.write_shard, []

    def count(shard):
        if len(written) == 2 and stops:
            raise KeyboardInterrupt
        written.append((shard.split, shard.number))
        return write(shard)

    monkeypatch.setattr(convert_images, 'write_shard', count)
    stops = True
    assert run(folder)[0] != 0
    assert not (folder.parent / 'out' / 'manifest.json').exists()
    stops = False
    out = run(folder)[1]
    assert len(written) == len(set(written)) > 2
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    count_before = len(written)
    run(folder)
    assert len(written) == count_before
    # The same as of one that nothing interrupted.
    _, other = run(folder, out='other')
    for path in other.glob('[tv]*-of-*'):
        assert path.read_bytes() == before[path.name]
    # A file that changed is read again, and no other shard.
    del written[:]
    (folder / 'val' / 'cow' / '052.png').write_bytes(encoded(painted(99)))
    run(folder)
    assert len(written) == 1
    assert ImageRecords(str(out)).open().val.read(2)[0] == encoded(painted(99))


def test_names_that_tell_nothing(tmp_path, capsys):
    records = [
        example(image=encoded(painted(n, 4, 4, 1)), label=n % 2)
        for n in range(40)
    ]
    write_tfrecord(tmp_path / 'some.tfrecord', records)
    code, out = run(tmp_path / 'some.tfrecord', '--val_fraction=0.3')
    assert code == 0
    manifest = json.loads((out / 'manifest.json').read_text())
    assert manifest['classes'] == ['0', '1']
    assert manifest['gray']
    assert sum(manifest['images'].values()) == 40
    assert 0 < manifest['images']['val'] < 40
    printed = capsys.readouterr().out
    assert '--config.model.image_size=4 --config.model.channels=1' in printed


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--out=x'], '--files = '),
        (['--files=none', '--out=x'], 'no such file'),
        (['--files=d', '--out=d/train/ant/000.png'], 'a folder to write to'),
        (['--files=d/train', '--out=x', '--val_fraction=0.0001'], 'in val'),
        (['--files=d', '--out=x', '--kind=zip'], '--kind'),
    ],
)
def test_mistakes_are_one_line(folder, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(folder.parent)
    argv = ['moe.convert_images', '--processes=1', *arguments]
    assert convert_images.main(argv) == 2
    told = capsys.readouterr().err
    assert words.removeprefix('--') in told
    assert told.count('\n') == 1
