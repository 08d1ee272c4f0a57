"""Labelled images: their split, their standard, their errors."""

import functools
import hashlib
import io
import sys
import zipfile

import numpy as np
import pytest

import moe.config
from configs import vision
from moe.config import ConfigError, Text, parse
from moe.workloads import data_files, registry
from moe.workloads.vision.data.folder import Folder
from moe.workloads.vision.data.images import ImageConfig, load_images, source_of
from moe.workloads.vision.data.sources import digits, npz
from tests.workloads.vision.pictures import write_folder


def config(files='', batch_size=4, val_fraction=0.25, shift=0):
    source = functools.partial(digits, val_fraction=val_fraction)
    if files:
        source = functools.partial(npz, files=files, val_fraction=val_fraction)
    return ImageConfig(source, batch_size, shift)


def write(folder, **arrays):
    path = folder / 'images.npz'
    np.savez(path, **arrays)
    return str(path)


def pixels(count=20, *shape):
    """Distinct bytes, or at least distinct images."""
    shape = (count, *(shape or (2, 3)))
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def labels(count=20):
    return np.arange(count) % 3


def header(shape, dtype):
    """The first bytes of an array's file, whatever follows."""
    file = io.BytesIO()
    plain = {'shape': shape, 'fortran_order': False, 'descr': dtype}
    np.lib.format.write_array_header_1_0(file, plain)
    return file.getvalue()


def standard(x, train):
    """By hand, pixel after pixel in float64."""
    numbers = [float(v) for v in np.float64(train).ravel()]
    mean = sum(numbers) / len(numbers)
    square = sum((v - mean) ** 2 for v in numbers) / len(numbers)
    return (np.float64(x) - mean) / np.sqrt(square), -mean / np.sqrt(square)


def test_split_by_one_permutation(tmp_path):
    # A quarter of twenty is five: the first of the permutation.
    x, y = pixels(), labels()
    made = load_images(config(write(tmp_path, x=x, y=y)))
    order = np.random.default_rng(0).permutation(20)
    val, train = order[:5], order[5:]
    np.testing.assert_array_equal(made.train_y, y[train])
    np.testing.assert_array_equal(made.val_y, y[val])
    # The training pixels' mean and deviation, the same for both.
    desired_train, black = standard(x[train] / 255, x[train] / 255)
    desired_val, _ = standard(x[val] / 255, x[train] / 255)
    for actual, desired in (
        (made.train_x, desired_train),
        (made.val_x, desired_val),
    ):
        assert actual.dtype == np.float32
        np.testing.assert_allclose(
            actual, desired[..., None], rtol=0, atol=1e-5
        )
    np.testing.assert_allclose(made.standard.black, black, rtol=1e-6)
    assert {made.train_y.dtype, made.val_y.dtype} == {np.dtype('int32')}
    assert made.num_classes == 3


@pytest.mark.parametrize(('fraction', 'num_val'), [(0.5, 10), (0.06, 1)])
def test_share_of_validation(tmp_path, fraction, num_val):
    # 0.06 of twenty is 1.2.
    files = write(tmp_path, x=pixels(), y=labels())
    made = load_images(config(files, val_fraction=fraction))
    assert len(made.val_x) == len(made.val_y) == num_val
    assert len(made.train_x) == len(made.train_y) == 20 - num_val


def test_given_validation_is_kept(tmp_path):
    # All of x is trained on, in its order; a class may be in y_val alone.
    x, y = pixels(6, 2, 3, 3), labels(6)
    x_val, y_val = pixels(2, 2, 3, 3)[::-1], np.array([1, 7])
    files = write(tmp_path, x=x, y=y, x_val=x_val, y_val=y_val)
    made = load_images(config(files, val_fraction=0.0))
    for actual, desired in ((made.train_x, x), (made.val_x, x_val)):
        desired, _ = standard(desired / 255, x / 255)
        np.testing.assert_allclose(actual, desired, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(made.train_y, y)
    np.testing.assert_array_equal(made.val_y, y_val)
    assert made.num_classes == 8


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64])
def test_floats_are_taken_as_they_are(tmp_path, dtype):
    x = pixels().astype(dtype) / 4 - 20  # exact in all of them
    files = write(tmp_path, x=x, y=labels().astype(np.uint8))
    made = load_images(config(files))
    train = np.random.default_rng(0).permutation(20)[5:]
    desired, black = standard(x[train], x[train])
    np.testing.assert_allclose(
        made.train_x, desired[..., None], rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(made.standard.black, black, rtol=1e-6)


def test_fingerprint(tmp_path):
    x, y = pixels(6), labels(6)
    given = {'x': x, 'y': y, 'x_val': x[:2], 'y_val': y[:2]}
    first = load_images(config(write(tmp_path, **given))).fingerprint
    digest = hashlib.sha256()
    for array, shape in (
        (np.float32(x) / np.float32(255), '(6, 2, 3, 1)'),
        (np.int32(y), '(6,)'),
        (np.float32(x[:2]) / np.float32(255), '(2, 2, 3, 1)'),
        (np.int32(y[:2]), '(2,)'),
    ):
        digest.update(shape.encode() + array.tobytes())
    assert first == digest.hexdigest()[:16]
    # The same again, and another one for a change of any array.
    assert load_images(config(write(tmp_path, **given))).fingerprint == first
    for name, array in given.items():
        other = array.copy()
        other.flat[1] += 1
        files = write(tmp_path, **{**given, name: other})
        assert load_images(config(files)).fingerprint != first, name


def test_without_files_it_is_the_digits():
    made = load_images(config(val_fraction=0.2))
    # 1797 images, of which 359.4 are a fifth; all ten digits in both.
    assert made.train_x.shape == (1797 - 359, 8, 8, 1)
    assert made.val_x.shape == (359, 8, 8, 1)
    assert made.num_classes == 10
    for y in (made.train_y, made.val_y):
        assert set(y.tolist()) == set(range(10))
    np.testing.assert_allclose(np.mean(made.train_x, dtype=float), 0, atol=1e-6)
    np.testing.assert_allclose(np.std(made.train_x, dtype=float), 1, rtol=1e-6)
    # Seventeen levels of grey, a sixteenth of the way from black to white
    # apart; black is what most pixels are.
    levels = np.unique(made.train_x)
    assert len(levels) == 17
    np.testing.assert_allclose(np.diff(levels), np.ptp(levels) / 16, rtol=1e-5)
    np.testing.assert_allclose(levels[0], made.standard.black, rtol=1e-6)


def test_digits_need_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(ConfigError, match=r'is not installed$') as caught:
        load_images(config())
    assert caught.value.field == 'config.data.source.name'


NAN = np.where(np.arange(120).reshape(20, 2, 3) == 77, np.nan, 1.0)


@pytest.mark.parametrize(
    ('arrays', 'words'),
    [
        ({'x': pixels()}, ['has also y']),
        ({'y': labels()}, ['has also x']),
        ({'pixels': pixels(), 'classes': labels()}, ['has also x, y']),
        ({'x': pixels(), 'y': labels(), 'x_val': pixels()}, ['also y_val']),
        ({'x': pixels(), 'y': labels(), 'y_val': labels()}, ['also x_val']),
        ({'x': pixels(20, 6), 'y': labels()}, ['[N, H, W]', '[20, 6]']),
        (
            {'x': pixels(20, 2, 3, 1, 1), 'y': labels()},
            ['[N, H, W, C]', '[20, 2, 3, 1, 1]'],
        ),
        ({'x': pixels(20, 0, 3), 'y': labels()}, ['[20, 0, 3]']),
        ({'x': pixels(), 'y': np.eye(20, dtype=int)}, ['[20, 20]']),
        ({'x': pixels(), 'y': labels(19)}, ['same length', '20 and 19']),
        ({'x': pixels().astype(int), 'y': labels()}, ['uint8 or float']),
        ({'x': pixels(), 'y': labels() / 2}, ['integers', 'float64']),
        ({'x': pixels(), 'y': labels() > 1}, ['integers', 'bool']),
        ({'x': pixels(), 'y': labels() - 1}, ['0 and up', '-1 to 1']),
        ({'x': pixels(), 'y': labels() + 2**31}, ['0 and up', '2147483648']),
        ({'x': NAN, 'y': labels()}, ['finite']),
        ({'x': np.nan_to_num(NAN, nan=np.inf), 'y': labels()}, ['finite']),
        ({'x': pixels() * 1e300, 'y': labels()}, ['finite']),
        ({'x': pixels() * 0, 'y': labels()}, ['not all the same']),
        ({'x': np.array(None), 'y': labels()}, ['can be read']),
        (
            {'x': pixels(), 'y': labels(), 'x_val': NAN, 'y_val': labels()},
            ['x_val', 'float64 [20, 2, 3] and uint8 [20, 2, 3]'],
        ),
        (
            {
                'x': pixels(),
                'y': labels(),
                'x_val': pixels(20, 3, 2),
                'y_val': labels(),
            },
            ['x_val', '[20, 3, 2] and uint8 [20, 2, 3]'],
        ),
        (
            {
                'x': pixels(),
                'y': labels(),
                'x_val': pixels(0),
                'y_val': labels(0),
            },
            ['x_val', 'there are 0'],
        ),
        # Fifteen of twenty are for training, three of four; none of one.
        ({'x': pixels(1), 'y': labels(1)}, ['at least one image', 'are 1)']),
        ({'x': pixels(0), 'y': labels(0)}, ['at least one image', 'are 0)']),
        ({'x': pixels(4), 'y': labels(4)}, ['batch_size = 4', 'there are 3']),
    ],
)
def test_refused(tmp_path, arrays, words):
    files = write(tmp_path, **arrays)
    with pytest.raises(ConfigError) as caught:
        load_images(config(files))
    field = caught.value.field.removeprefix('config.data.source').strip('.')
    if field == 'val_fraction':
        assert caught.value.value == 0.25
    else:
        # The file is wrong, or what any source might have given.
        section = {'name': 'npz', 'files': files, 'val_fraction': 0.25}
        assert caught.value.value == (section.get(field) or section)
    assert '\n' not in str(caught.value)
    for word in words:
        assert word in caught.value.allowed


def test_finite_validation(tmp_path):
    ones = np.ones((20, 2, 3)) * np.arange(3)
    files = write(tmp_path, x=ones, y=labels(), x_val=NAN, y_val=labels())
    with pytest.raises(ConfigError, match=r'finite$'):
        load_images(config(files))


@pytest.mark.parametrize('kind', ['none', 'folder', 'text', 'npy', 'empty'])
def test_no_archive(tmp_path, kind):
    path = tmp_path / 'images.npz'
    if kind == 'folder':
        path.mkdir()
    elif kind == 'npy':
        with path.open('wb') as file:
            np.save(file, pixels())
    elif kind != 'none':
        path.write_text('words' if kind == 'text' else '')
    words = {'none': 'no such file', 'folder': 'it is a folder'}.get(
        kind, 'no archive of arrays'
    )
    with pytest.raises(ConfigError, match=words):
        load_images(config(str(path)))


def test_damaged_archive(tmp_path):
    files = write(tmp_path, x=pixels(), y=labels())
    data = bytearray((tmp_path / 'images.npz').read_bytes())
    data[200] ^= 1  # a pixel of x
    (tmp_path / 'images.npz').write_bytes(data)
    with pytest.raises(ConfigError, match='can be read'):
        load_images(config(files))


@pytest.mark.parametrize(
    ('member', 'words'),
    [
        ('words', 'magic string'),
        # 64 TB of pixels in a file of some bytes.
        (header((2**26, 1024, 1024), '<f4'), 'tells another size'),
        (header((2**62, 2**62, 4), '<f4'), 'tells another size'),
        (header((20, 2, 3), '|u1') + b'x' * 119, 'tells another size'),
        (header((20, 2, 3), '|O') + b'x' * 960, 'holds objects'),
        (header((1,), '(' * 3000), 'can be read'),
        (header((1,), '<f4').replace(b'fortran', b'FORTRAN'), 'can be read'),
        (b'\x93NUMPY\x09\x00' + b'x' * 99, 'magic|newer|version'),
        (b'\x93NUMPY\x01\x00\xff\xff{', 'can be read'),
    ],
)
@pytest.mark.parametrize('name', ['x.npy', 'y.npy'])
def test_archive_of_something_else(tmp_path, member, words, name):
    path = write(tmp_path, x=pixels(), y=labels())
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    with zipfile.ZipFile(path, 'w') as archive:
        for other, data in {**members, name: member}.items():
            archive.writestr(other, data)
    with pytest.raises(ConfigError, match=words) as caught:
        load_images(config(path))
    assert '\n' not in str(caught.value)


def test_more_images_than_memory(tmp_path, monkeypatch):
    # 120 bytes of pixels, and 24 more of each while they are read; 20 labels.
    monkeypatch.setattr(data_files, 'available_memory', lambda: 3000)
    files = write(tmp_path, x=pixels(), y=labels())
    with pytest.raises(ConfigError, match='fits in memory'):
        load_images(config(files))


@pytest.mark.parametrize(
    ('changes', 'field'),
    [
        ({'batch_size': 0}, 'batch_size'),
        ({'source.val_fraction': 0.6}, 'val_fraction'),
        ({'shift': -1}, 'shift'),
        ({'source': 'npz'}, 'missing files'),
    ],
)
def test_config_is_checked(changes, field):
    source = {'name': 'npz', 'files': 'a.npz', 'val_fraction': 0.1}
    plain = {'source': source, 'batch_size': 4, 'shift': 1}
    made = parse(ImageConfig, plain)
    assert made.source.func is npz
    assert made.source.keywords == {'files': 'a.npz', 'val_fraction': 0.1}
    assert parse(ImageConfig, {}).source.func is digits
    with pytest.raises(ConfigError, match=field):
        parse(ImageConfig, moe.config.changed(plain, changes))


def test_a_path_tells_its_source(tmp_path):
    write_folder(tmp_path / 'images' / 'train', ['a'], 1)
    (tmp_path / 'shards').mkdir()
    (tmp_path / 'shards' / 'train-00000-of-00001.array_record').touch()
    (tmp_path / 'strange').touch()
    for name, source in (
        ('images', 'folder'),
        ('shards', 'array_record'),
        ('shards/*.array_record', 'array_record'),
        ('images.npz', 'npz'),
        ('none', 'folder'),
        ('none/*.array_record', 'array_record'),
        ('strange', None),
    ):
        assert source_of('files', str(tmp_path / name)) == source, name
        assert source_of('path', str(tmp_path / name)) is None
    given = [('data.source.files', Text(tmp_path / 'images'))]
    read = registry.read_config(vision.get_config('dense'), given)
    assert read.data.source == Folder(str(tmp_path / 'images'))
    # What is named is not guessed.
    given.append(('data.source.name', Text('npz')))
    read = registry.read_config(vision.get_config('dense'), given)
    with pytest.raises(ConfigError, match=r'data\.source\.name=folder'):
        load_images(read.data)
    given = [('data.source.files', Text(tmp_path / 'none'))]
    read = registry.read_config(vision.get_config('dense'), given)
    with pytest.raises(ConfigError, match='there is no such folder'):
        load_images(read.data)
    given = [('data.source.files', Text(tmp_path / 'strange'))]
    with pytest.raises(ConfigError, match='one of array_record, folder, npz'):
        registry.read_config(vision.get_config('dense'), given)
