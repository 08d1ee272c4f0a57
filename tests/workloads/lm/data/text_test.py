"""Text files as tokens: what they are, their split, their errors."""

import dataclasses
import gzip
import hashlib
import lzma

import numpy as np
import pytest

from moe.config import ConfigError
from moe.workloads import data_files
from moe.workloads.lm.data import text as text_module
from moe.workloads.lm.data import texts
from moe.workloads.lm.data.text import TextFiles

SEQ_LEN = 5


def load(files='', val_fraction=0.25, seq_len=SEQ_LEN):
    """The corpus, its tokens as arrays."""
    corpus = TextFiles(files, val_fraction).load(seq_len)
    parts = {'train': corpus.train[:], 'val': corpus.val[:]}
    return dataclasses.replace(corpus, **parts)


def write_letters(folder, count=8, size=20):
    """File i holds one letter, its own, `size` times."""
    for i in range(count):
        (folder / f'{i}.txt').write_text(chr(ord('a') + i) * size)
    return str(folder / '*.txt')


def letters(text):
    return {chr(byte) for byte in text} - {'\0'}


@pytest.mark.parametrize(
    ('fraction', 'val'), [(0.25, 41), (0.5, 83), (0.2, 41), (0.0, 20)]
)
def test_split_by_bytes(tmp_path, fraction, val):
    # 8 files of 20 bytes and 7 zero bytes are 167: shares of 41.75, 83.5 and
    # 33.4 bytes, up to the end of a file, whose zero byte is left out; without
    # any share one sequence, of 6 bytes, up to the end of the file.
    corpus = load(write_letters(tmp_path), val_fraction=fraction)
    assert len(corpus.val) == val
    assert corpus.facts == {
        'files': 8,
        'train_bytes': 166 - val,
        'val_bytes': val,
    }
    whole = b'\0'.join([corpus.val.tobytes(), corpus.train.tobytes()])
    assert corpus.train.dtype == np.uint8
    parts = whole.split(b'\0')
    assert sorted(parts) == [bytes([97 + i]) * 20 for i in range(8)]
    # The order of the hashes of their bytes.
    assert parts == sorted(parts, key=lambda p: hashlib.sha256(p).digest())
    assert not letters(corpus.train) & letters(corpus.val)


@pytest.mark.parametrize('order', [1, -1])
def test_a_large_file_and_a_small_one(tmp_path, order):
    # 50 kB and 100 bytes, whichever is first: a tenth of the bytes validates,
    # to the end of a line of 25 bytes at most.
    lines = [f'{i * order:>24}\n' for i in range(2000)]
    (tmp_path / 'a.txt').write_text(''.join(lines))
    (tmp_path / 'b.txt').write_text('x' * 99 + '\n')
    corpus = load(f'{tmp_path}/*.txt', val_fraction=0.1)
    assert 5010 <= len(corpus.val) <= 5035
    assert corpus.val[-1] == ord('\n')
    assert len(corpus.train) + len(corpus.val) == 50_101


def test_one_file(tmp_path):
    (tmp_path / 'a.txt').write_text('ab\n' * 40)
    corpus = load(f'{tmp_path}/a.txt')
    assert (len(corpus.val), len(corpus.train)) == (30, 90)


def test_depends_on_contents_alone(tmp_path, monkeypatch):
    # Not on names, folders, compression or the order of a listing.
    files = write_letters(tmp_path)
    first = load(files)
    other = tmp_path / 'other' / 'deep'
    other.mkdir(parents=True)
    for i, path in enumerate(sorted(tmp_path.glob('*.txt'))):
        data = path.read_bytes()
        data = gzip.compress(data) if i % 2 else lzma.compress(data)
        (other / f'{9 - i}.txt').write_bytes(data)
    for again in (load(f'{tmp_path}/other/**'), load(files)):
        np.testing.assert_array_equal(again.train, first.train)
        np.testing.assert_array_equal(again.val, first.val)
        assert again.fingerprint == first.fingerprint
        assert again.facts == first.facts
    # One byte of one file, or another border: another fingerprint.
    assert load(files, 0.5).fingerprint != first.fingerprint
    (tmp_path / '3.txt').write_text('d' * 19 + 'e')
    assert load(files).fingerprint != first.fingerprint


def test_repeated_files_are_read_once(tmp_path):
    # Else what validates would be what was trained on.
    files = write_letters(tmp_path)
    first = load(files)
    for i in range(6):
        (tmp_path / f'copy {i}.txt').write_text('a' * 20)
    (tmp_path / 'empty.txt').touch()
    corpus = load(files)
    np.testing.assert_array_equal(corpus.train, first.train)
    assert corpus.facts == {**first.facts, 'repeated_files_left_out': 6}


def test_a_new_file_moves_no_other(tmp_path):
    # Validation is what has the lowest hashes: one more file of nine can push
    # one out at most.
    files = write_letters(tmp_path)
    before = letters(load(files, val_fraction=0.2).val)
    write_letters(tmp_path, 9)
    after = letters(load(files, val_fraction=0.2).val)
    assert len(before) == len(after) == 2
    assert len(before - after) <= 1
    assert after - before <= {'i'}


def test_bytes_of_any_encoding(tmp_path):
    (tmp_path / 'a.txt').write_bytes('Köln\r\n'.encode('latin-1') * 20)
    corpus = load(f'{tmp_path}/*.txt')
    assert corpus.train[-6:].tobytes() == b'K\xf6ln\r\n'


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (b'PAR1\x15\x04', 'b.txt is a Parquet file'),
        (b'\x89PNG\r\n\x1a\n', 'b.txt is a PNG picture'),
        (b'PK\x03\x04', 'b.txt is a zip archive'),
        (gzip.compress(b'\xff\xd8\xff'), 'b.txt is a JPEG picture'),
        (b'x' * 2**20 + b'\0', 'b.txt is binary: it has NUL bytes'),
        (gzip.compress(b'x' * 1000)[:-9], 'b.txt is no file to read: '),
    ],
    ids=['parquet', 'png', 'zip', 'jpeg', 'nul', 'cut'],
)
def test_what_is_no_text(tmp_path, content, words):
    write_letters(tmp_path)
    (tmp_path / 'b.txt').write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        load(f'{tmp_path}/*.txt')
    assert caught.value.field == 'files'
    assert '\n' not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    def fail(path):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(texts.data_files, 'opened', fail)
    with pytest.raises(ConfigError, match='Permission denied'):
        load(write_letters(tmp_path))


def test_a_file_that_changes(tmp_path, monkeypatch):
    # Between the two times that it is read.
    files = write_letters(tmp_path)
    make = np.zeros

    def change(*given):
        (tmp_path / '0.txt').write_text('a' * 21)
        return make(*given)

    monkeypatch.setattr(text_module.np, 'zeros', change)
    with pytest.raises(ConfigError, match='being written'):
        load(files)


@pytest.mark.parametrize('compress', [bytes, gzip.compress])
def test_more_than_memory(tmp_path, monkeypatch, compress):
    # Before anything is allocated, of compressed files too.
    (tmp_path / 'a.txt').write_bytes(compress(b'x' * 3 * 2**20))
    monkeypatch.setattr(data_files, 'available_memory', lambda: 2**20)
    monkeypatch.setattr(text_module.np, 'zeros', None)
    with pytest.raises(ConfigError, match=r'fits in memory .* GiB are free'):
        load(f'{tmp_path}/*.txt')


@pytest.mark.parametrize(
    ('sizes', 'words'),
    [
        ([], ['there is no such file']),
        ([0, 0, 0], ['seq_len + 1 = 6', 'there are 0']),
        ([3], ['training', 'there are 0']),
        ([11], ['training', 'there are 5']),
    ],
    ids=['none', 'empty', 'short', 'nearly'],
)
def test_too_little_text(tmp_path, sizes, words):
    for i, size in enumerate(sizes):
        (tmp_path / f'{i}.txt').write_text('x' * size)
    files = f'{tmp_path}/*.txt'
    with pytest.raises(ConfigError) as caught:
        load(files)
    assert caught.value.field == 'files'
    assert caught.value.value == files
    assert '\n' not in str(caught.value)
    for word in words:
        assert word in caught.value.allowed


def test_without_files_it_is_the_standard_library():
    corpus = load('', 0.02, 128)
    assert corpus.facts['files'] > 100
    size = len(corpus.train) + len(corpus.val)
    assert size > 1_000_000
    assert 0.02 <= len(corpus.val) / size < 0.021
    for text in (corpus.train, corpus.val):
        assert b'def ' in text.tobytes()


def test_tokens_are_bytes():
    source = TextFiles()
    ids = source.encode('h\u00e9')
    assert (ids.tolist(), ids.dtype) == ([104, 195, 169], np.int32)
    assert source.decode(ids) == 'h\u00e9'
    # A zero byte ends a file; half a character is no UTF-8.
    assert source.decode(np.array([104, 0, 195])) == 'h\n\ufffd'
    assert (source.vocab_size, source.bytes_per_token) == (256, 1.0)


@pytest.mark.parametrize('text', ['', 'plain', 'a\tb\nc', 'caf\u00e9 \u20ac'])
def test_text_comes_back(text):
    ids = TextFiles().encode(text)
    assert ids.tolist() == list(text.encode())
    assert TextFiles().decode(ids) == text


def test_pieces():
    shown = TextFiles().pieces(np.arange(256))
    for token in range(256):
        visible = token in (9, 10) or 32 <= token < 127
        assert shown[token] == (chr(token) if visible else '')
