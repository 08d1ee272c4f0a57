"""Folders of images: classes, parts, and what is refused."""

import numpy as np
import pytest

from moe.config import ConfigError
from moe.workloads.vision.data.folder import Folder, looks_like_images
from tests.workloads.vision.pictures import encoded, painted, write_folder


def open_folder(path, **options):
    return Folder(str(path), **options).open()


def contents(part):
    return [part.read(i) for i in range(len(part))]


def test_train_and_val(tmp_path):
    train = write_folder(tmp_path / 'train', ['ant', 'bee', 'cow'], 3)
    val = write_folder(tmp_path / 'validation', ['ant', 'bee'], 2, first=100)
    (tmp_path / 'train' / 'bee' / '.hidden').write_text('')
    (tmp_path / 'train' / 'bee' / 'Thumbs.db').write_text('')
    (tmp_path / 'LICENSE.txt').write_text('')
    found = open_folder(tmp_path)
    for part, made in ((found.train, train), (found.val, val)):
        desired = [(encoded(painted(n)), label) for n, label in made]
        assert contents(part) == desired
        assert [part.label(i) for i in range(len(part))] == [
            label for _, label in made
        ]
    assert found.num_classes == 3
    assert found.train.name(4).endswith('train/bee/004.png')


def test_one_folder_is_split_by_content(tmp_path):
    made = write_folder(tmp_path, ['a', 'b'], 20)
    found = open_folder(tmp_path, val_fraction=0.25)
    train, val = contents(found.train), contents(found.val)
    every = [(encoded(painted(n)), label) for n, label in made]
    assert sorted(train + val) == sorted(every)
    assert 0 < len(val) < 20
    # A copy under another name goes where its content goes.
    (tmp_path / 'a' / 'copy.png').write_bytes(val[0][0])
    again = open_folder(tmp_path, val_fraction=0.25)
    assert len(again.val) == len(val) + 1
    assert again.digest != found.digest


def test_digest_tells_changes(tmp_path):
    write_folder(tmp_path / 'train', ['a', 'b'], 2)
    write_folder(tmp_path / 'test', ['a', 'b'], 2, first=9)
    first = open_folder(tmp_path).digest
    assert open_folder(tmp_path).digest == first
    (tmp_path / 'train' / 'a' / '000.png').rename(
        tmp_path / 'train' / 'b' / '000.png'
    )
    assert open_folder(tmp_path).digest != first


@pytest.mark.parametrize(
    ('files', 'words'),
    [
        ([], 'there are none'),
        (['1.png'], '1.png is in none'),
        (['a/1.png', 'b/'], 'b has no images'),
        (['a/1.png', 'a/notes.txt'], 'notes.txt is no image by its name'),
        (
            ['train/a/1.png', 'val/a/2.png', 'val/b/3.png'],
            'val/b is a class without training',
        ),
        (['train/a/1.png', 'val/a/'], 'val/a has no images'),
    ],
)
def test_what_is_refused(tmp_path, files, words):
    root = tmp_path / 'root'
    root.mkdir()
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith('/'):
            (root / name).mkdir()
        else:
            (root / name).write_bytes(encoded(painted(0)))
    with pytest.raises(ConfigError, match=words) as caught:
        open_folder(root)
    assert caught.value.field == 'config.data.source.files'


def test_no_folder(tmp_path):
    with pytest.raises(ConfigError, match='no such folder'):
        open_folder(tmp_path / 'none')
    (tmp_path / 'file').write_text('')
    with pytest.raises(ConfigError, match='it is a file'):
        open_folder(tmp_path / 'file')


def test_a_file_that_is_gone(tmp_path):
    write_folder(tmp_path / 'train', ['a'], 2)
    write_folder(tmp_path / 'val', ['a'], 2)
    found = open_folder(tmp_path)
    (tmp_path / 'train' / 'a' / '001.png').unlink()
    with pytest.raises(ConfigError, match=r'001.png cannot be read'):
        found.train.read(1)


def test_what_looks_like_images(tmp_path):
    write_folder(tmp_path / 'plain', ['a', 'b'], 1)
    write_folder(tmp_path / 'split' / 'train', ['a'], 1)
    write_folder(tmp_path / 'split' / 'val', ['a'], 1)
    (tmp_path / 'text' / 'a').mkdir(parents=True)
    (tmp_path / 'text' / 'a' / 'a.txt').write_text('')
    looks = {
        n: looks_like_images(str(tmp_path / n))
        for n in ('plain', 'split', 'text', 'none')
    }
    assert looks == {'plain': True, 'split': True, 'text': False, 'none': False}


def test_only_some(tmp_path):
    write_folder(tmp_path / 'train', ['a', 'b'], 3)
    write_folder(tmp_path / 'val', ['a'], 1)
    train = open_folder(tmp_path).train
    some = train.only(np.array([True, False, False, False, True, False]))
    assert [label for _, label in contents(some)] == [0, 1]
    assert contents(some) == [contents(train)[0], contents(train)[4]]
