"""Files of data: which they are, what they are, and how they are read."""

import bz2
import gzip
import importlib.util
import lzma
import os
import socket

import pytest

from moe.config import ConfigError
from moe.workloads import data_files
from moe.workloads.data_files import (
    UNREADABLE,
    available_memory,
    binary_kind,
    by_number,
    check_memory,
    matching,
    opened,
    sampled_hash,
)


def test_matching(tmp_path):
    for name in ('b.txt', 'a.txt', 'deep/c.txt', '[1].txt'):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text('x')
    (tmp_path / 'link.txt').symlink_to('a.txt')
    (tmp_path / 'folder.txt').mkdir()
    found = matching(f'{tmp_path}/**/*.txt', 'files')
    names = [os.path.relpath(path, tmp_path) for path in found]
    assert names == ['[1].txt', 'a.txt', 'b.txt', 'deep/c.txt', 'link.txt']
    # A path is itself, though it has brackets.
    assert matching(f'{tmp_path}/[1].txt', 'files') == [f'{tmp_path}/[1].txt']


@pytest.mark.parametrize('kind', ['dangling', 'loop', 'pipe', 'socket'])
def test_what_is_no_file_is_told(tmp_path, kind):
    (tmp_path / 'a.txt').write_text('x')
    path = tmp_path / 'b.txt'
    if kind == 'pipe':
        os.mkfifo(path)
    elif kind == 'socket':
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    else:
        path.symlink_to('b.txt' if kind == 'loop' else 'none.txt')
    with pytest.raises(ConfigError, match=r'^files = .*b\.txt ') as caught:
        matching(f'{tmp_path}/*.txt', 'files')
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('pattern', ['no.csv', '*.gz', '', 'a\0b', 'a' * 5000])
def test_no_such_file(tmp_path, pattern):
    with pytest.raises(ConfigError, match='files = '):
        matching(f'{tmp_path}/{pattern}', 'files')


def test_a_folder(tmp_path):
    with pytest.raises(ConfigError, match='it is a folder'):
        matching(str(tmp_path), 'files')


@pytest.mark.parametrize(
    'compress', [bytes, gzip.compress, bz2.compress, lzma.compress]
)
def test_decompressed_by_content(tmp_path, compress):
    path = tmp_path / 'text'
    path.write_bytes(compress(b'abc' * 10_000))
    with opened(path) as stream:
        assert stream.peek(3)[:3] == b'abc'
        assert stream.read() == b'abc' * 10_000
    if compress is bytes:
        return
    path.write_bytes(compress(b'abc' * 10_000)[:-9])
    with pytest.raises(UNREADABLE), opened(path) as stream:
        stream.read()


def test_zstandard(tmp_path):
    path = tmp_path / 'text.zst'
    # A frame with one raw block, 'abc': RFC 8878, section 3.1.1.
    path.write_bytes(b'\x28\xb5\x2f\xfd\x20\x03\x19\x00\x00abc')
    names = ('compression', 'zstandard')
    if any(map(importlib.util.find_spec, names)):
        with opened(path) as stream:
            assert stream.read() == b'abc'
    else:
        with pytest.raises(OSError, match='Zstandard'), opened(path):
            pass


@pytest.mark.parametrize(
    ('data', 'kind'),
    [
        (b'PAR1\x15\x04', 'a Parquet file'),
        (b'\x89PNG\r\n', 'a PNG picture'),
        (b'\xff\xd8\xff\xe0', 'a JPEG picture'),
        (b'PK\x03\x04', 'a zip archive, as .npz, .xlsx and .docx are'),
        (b'a' * 257 + b'ustar', 'a tar archive'),
        ('ab'.encode('utf-16'), 'text in UTF-16'),
        (b'', None),
        (b'PNG and PAR are words', None),
        (b'caf\xe9', None),
    ],
)
def test_kinds(data, kind):
    assert binary_kind(data) == kind


def test_memory(monkeypatch):
    free = available_memory()
    assert 2**20 < free < 2**50
    check_memory(2**20, 'files', 'x')
    monkeypatch.setattr(data_files, 'available_memory', lambda: 3 * 2**30)
    check_memory(3 * 2**30, 'files', 'x')
    with pytest.raises(ConfigError) as caught:
        check_memory(65_536 * 2**30, 'files', 'x')
    allowed = 'it takes 65,536.0 GiB, and 3.0 GiB are free'
    assert allowed in str(caught.value)


@pytest.mark.parametrize('size', [0, 1, 40, 100])
def test_hash_of_a_small_file(tmp_path, size):
    # Of at most ten blocks of ten bytes: up to 100 bytes each byte counts.
    data = bytes(range(1, size + 1))
    path = tmp_path / 'a'

    def hash_of(data):
        path.write_bytes(data)
        return sampled_hash(str(path), 10, 10)

    others = [data[:i] + b'\0' + data[i + 1 :] for i in range(size)]
    found = {hash_of(each) for each in (data, data + b'x', *others)}
    assert len(found) == size + 2
    assert hash_of(data) == hash_of(data)


def test_hash_of_a_large_file(tmp_path):
    # Its size, its first and its last bytes count.
    path = tmp_path / 'a'
    found = set()
    for first, last, size in [(0, 0, 9), (1, 0, 9), (0, 1, 9), (0, 0, 10)]:
        path.write_bytes(bytes([first, *size * [7], last]) + b'')
        with path.open('r+b') as file:
            file.truncate(50_000)
            file.seek(50_000 + size - 1)
            file.write(bytes([last]))
        found.add(sampled_hash(str(path), 10, 10))
    assert len(found) == 4


def test_names_are_in_order_of_their_numbers():
    names = ['a-10.bin', 'a-9.bin', 'a-9b.bin', 'b-1.bin']
    order = ['a-9.bin', 'a-9b.bin', 'a-10.bin', 'b-1.bin']
    assert sorted(names, key=by_number) == order
