"""Text files as tokens: what they are, their split, their errors."""

import hashlib

import numpy as np
import pytest

from moe.config import ConfigError
from moe.workloads.lm import text as text_module
from moe.workloads.lm.text import TextFiles

SEQ_LEN = 5


def load(files='', val_fraction=0.25, seq_len=SEQ_LEN):
    return TextFiles(files, val_fraction).load(seq_len)


def num_files(corpus):
    return corpus.facts['train_files'], corpus.facts['val_files']


def write_letters(folder, count=8, size=20):
    """File i holds one letter, its own, `size` times."""
    for i in range(count):
        (folder / f'{i}.txt').write_text(chr(ord('a') + i) * size)
    return str(folder / '*.txt')


def letters(text):
    return {chr(byte) for byte in text} - {'\0'}


@pytest.mark.parametrize(
    ('fraction', 'num_val'), [(0.25, 2), (0.5, 4), (0.05, 1), (0.0, 1)]
)
def test_split_by_file(tmp_path, fraction, num_val):
    # Eight files; some file is always kept for validation.
    files = write_letters(tmp_path)
    corpus = load(files, val_fraction=fraction)
    assert num_files(corpus) == (8 - num_val, num_val)
    train, val = letters(corpus.train), letters(corpus.val)
    assert not train & val
    assert train | val == set('abcdefgh')
    assert (len(train), len(val)) == num_files(corpus)
    for text, count in ((corpus.train, 8 - num_val), (corpus.val, num_val)):
        assert text.dtype == np.uint8
        assert len(text) == 20 * count + (count - 1)
        # Whole files, with a zero byte between.
        parts = text.tobytes().split(b'\0')
        assert all(part == part[:1] * 20 for part in parts)


def test_depends_on_names_and_bytes_alone(tmp_path, monkeypatch):
    files = write_letters(tmp_path)
    first = load(files)
    listed = text_module.glob.glob
    monkeypatch.setattr(
        text_module.glob, 'glob', lambda *a, **k: listed(*a, **k)[::-1]
    )
    again = load(files)
    np.testing.assert_array_equal(again.train, first.train)
    np.testing.assert_array_equal(again.val, first.val)
    assert again.fingerprint == first.fingerprint
    # One byte of one file, and the fingerprint is another.
    (tmp_path / '3.txt').write_text('d' * 19 + 'e')
    assert load(files).fingerprint != first.fingerprint


def test_validation_has_the_lowest_hashes(tmp_path, monkeypatch):
    # Of the names as the glob gives them, so that no folder's order matters.
    write_letters(tmp_path)
    monkeypatch.chdir(tmp_path)
    names = sorted(
        (f'{i}.txt' for i in range(8)),
        key=lambda name: hashlib.sha256(name.encode()).hexdigest(),
    )
    assert names[:3] != [f'{i}.txt' for i in range(3)]
    corpus = load('*.txt', val_fraction=3 / 8)
    desired = {chr(ord('a') + int(name[0])) for name in names[:3]}
    assert letters(corpus.val) == desired


def test_a_new_file_moves_no_other(tmp_path):
    # Validation has the lowest hashes: one more file of nine, still two of
    # them, can push one out at most.
    files = write_letters(tmp_path)
    before = letters(load(files, val_fraction=0.2).val)
    write_letters(tmp_path, 9)
    after = letters(load(files, val_fraction=0.2).val)
    assert len(before) == len(after) == 2
    assert len(before - after) <= 1
    assert after - before <= {'i'}


def test_folders_are_searched_and_are_no_files(tmp_path):
    (tmp_path / 'deep' / 'er.txt').mkdir(parents=True)
    (tmp_path / 'a.txt').write_bytes(b'a' * 20)
    (tmp_path / 'deep' / 'b.txt').write_bytes(b'\xff\x00' * 10)
    corpus = load(f'{tmp_path}/**/*.txt')
    assert num_files(corpus) == (1, 1)


@pytest.mark.parametrize(
    ('sizes', 'words'),
    [
        ([], ['2 text files', 'it matches 0']),
        ([99], ['2 text files', 'it matches 1']),
        ([0, 0, 0], ['seq_len + 1 = 6', 'there are']),
        ([5, 5], ['seq_len + 1 = 6', 'training', 'there are 5']),
    ],
    ids=['none', 'one', 'empty', 'short'],
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


def test_too_little_validation_text(tmp_path):
    # Whichever of the files is kept: the other one of eight has a byte.
    files = write_letters(tmp_path)
    kept = letters(load(files, val_fraction=0.0).val).pop()
    (tmp_path / f'{ord(kept) - ord("a")}.txt').write_text('x')
    with pytest.raises(
        ConfigError, match=r'validation tokens \(there are 1\)$'
    ):
        load(files, val_fraction=0.0)


def test_without_files_it_is_the_standard_library():
    corpus = load('', 0.04, 128)
    train, val = num_files(corpus)
    assert train > 100
    assert val == max(1, round(0.04 * (train + val)))
    assert len(corpus.train) > 1_000_000
    assert len(corpus.val) > 128
    for text, count in ((corpus.train, train), (corpus.val, val)):
        assert text.tobytes().count(b'\0') == count - 1
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
