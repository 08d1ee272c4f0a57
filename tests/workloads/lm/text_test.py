"""The text corpus: its split, its batches, its errors."""

import collections
import hashlib
import itertools

import numpy as np
import pytest

from moe.config import ConfigError
from moe.workloads.lm import text as text_module
from moe.workloads.lm.text import (
    Corpus,
    TextConfig,
    load_text,
    train_batches,
    val_batches,
)

SEQ_LEN = 5
# 57 = 1 + 11 * 5 + 1 bytes: eleven windows, all different, and one byte over.
TRAIN = np.arange(57, dtype=np.uint8)
VAL = np.arange(100, 158, dtype=np.uint8)
CORPUS = Corpus(TRAIN, VAL, (1, 1), '')


def config(files='', batch_size=4, val_fraction=0.25, seq_len=SEQ_LEN):
    return TextConfig(files, seq_len, batch_size, val_fraction)


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
    corpus = load_text(config(files, val_fraction=fraction))
    assert corpus.num_files == (8 - num_val, num_val)
    train, val = letters(corpus.train), letters(corpus.val)
    assert not train & val
    assert train | val == set('abcdefgh')
    assert (len(train), len(val)) == corpus.num_files
    for text, count in ((corpus.train, 8 - num_val), (corpus.val, num_val)):
        assert text.dtype == np.uint8
        assert len(text) == 20 * count + (count - 1)
        # Whole files, with a zero byte between.
        parts = text.tobytes().split(b'\0')
        assert all(part == part[:1] * 20 for part in parts)


def test_depends_on_names_and_bytes_alone(tmp_path, monkeypatch):
    files = write_letters(tmp_path)
    first = load_text(config(files))
    listed = text_module.glob.glob
    monkeypatch.setattr(
        text_module.glob, 'glob', lambda *a, **k: listed(*a, **k)[::-1]
    )
    again = load_text(config(files))
    np.testing.assert_array_equal(again.train, first.train)
    np.testing.assert_array_equal(again.val, first.val)
    assert again.fingerprint == first.fingerprint
    # One byte of one file, and the fingerprint is another.
    (tmp_path / '3.txt').write_text('d' * 19 + 'e')
    assert load_text(config(files)).fingerprint != first.fingerprint


def test_validation_has_the_lowest_hashes(tmp_path, monkeypatch):
    # Of the names as the glob gives them, so that no folder's order matters.
    write_letters(tmp_path)
    monkeypatch.chdir(tmp_path)
    names = sorted(
        (f'{i}.txt' for i in range(8)),
        key=lambda name: hashlib.sha256(name.encode()).hexdigest(),
    )
    assert names[:3] != [f'{i}.txt' for i in range(3)]
    corpus = load_text(config('*.txt', val_fraction=3 / 8))
    desired = {chr(ord('a') + int(name[0])) for name in names[:3]}
    assert letters(corpus.val) == desired


def test_a_new_file_moves_no_other(tmp_path):
    # Validation has the lowest hashes: one more file of nine, still two of
    # them, can push one out at most.
    files = write_letters(tmp_path)
    before = letters(load_text(config(files, val_fraction=0.2)).val)
    write_letters(tmp_path, 9)
    after = letters(load_text(config(files, val_fraction=0.2)).val)
    assert len(before) == len(after) == 2
    assert len(before - after) <= 1
    assert after - before <= {'i'}


def test_folders_are_searched_and_are_no_files(tmp_path):
    (tmp_path / 'deep' / 'er.txt').mkdir(parents=True)
    (tmp_path / 'a.txt').write_bytes(b'a' * 20)
    (tmp_path / 'deep' / 'b.txt').write_bytes(b'\xff\x00' * 10)
    corpus = load_text(config(f'{tmp_path}/**/*.txt'))
    assert corpus.num_files == (1, 1)


@pytest.mark.parametrize(
    ('sizes', 'words'),
    [
        ([], ['2 text files', 'it matches 0']),
        ([99], ['2 text files', 'it matches 1']),
        ([0, 0, 0], ['seq_len + 1 = 6 bytes', 'there are']),
        ([5, 5], ['seq_len + 1 = 6 bytes', 'training', 'there are 5']),
    ],
    ids=['none', 'one', 'empty', 'short'],
)
def test_too_little_text(tmp_path, sizes, words):
    for i, size in enumerate(sizes):
        (tmp_path / f'{i}.txt').write_text('x' * size)
    files = f'{tmp_path}/*.txt'
    with pytest.raises(ConfigError) as caught:
        load_text(config(files))
    assert caught.value.field == 'config.data.files'
    assert caught.value.value == files
    assert '\n' not in str(caught.value)
    for word in words:
        assert word in caught.value.allowed


def test_too_little_validation_text(tmp_path):
    # Whichever of the files is kept: the other one of eight has a byte.
    files = write_letters(tmp_path)
    kept = letters(load_text(config(files, val_fraction=0.0)).val).pop()
    (tmp_path / f'{ord(kept) - ord("a")}.txt').write_text('x')
    with pytest.raises(ConfigError, match=r'validation text \(there are 1\)$'):
        load_text(config(files, val_fraction=0.0))


def test_without_files_it_is_the_standard_library():
    corpus = load_text(TextConfig('', 128, 32, 0.04))
    train, val = corpus.num_files
    assert train > 100
    assert val == max(1, round(0.04 * (train + val)))
    assert len(corpus.train) > 1_000_000
    assert len(corpus.val) > 128
    for text, count in ((corpus.train, train), (corpus.val, val)):
        assert text.tobytes().count(b'\0') == count - 1
        assert b'def ' in text.tobytes()


def take(batches, count):
    return [np.array(b) for b in itertools.islice(batches, count)]


def window(row):
    """Which of the eleven windows a row is."""
    index, rest = divmod(int(row[0]), SEQ_LEN)
    assert rest == 0
    np.testing.assert_array_equal(row, TRAIN[5 * index : 5 * index + 6])
    return index


def rows(*streams, count):
    """The windows of the first batches, the hosts' shares side by side."""
    shares = zip(*(take(s, count) for s in streams), strict=True)
    return [[window(row) for share in t for row in share] for t in shares]


@pytest.mark.parametrize('num_hosts', [2, 4])
def test_batches_are_the_same_on_any_number_of_hosts(num_hosts):
    # Twelve batches of four: past the ends of four epochs of eleven.
    one = rows(train_batches(CORPUS, config(), seed=3), count=12)
    hosts = [
        train_batches(CORPUS, config(), 3, host, num_hosts)
        for host in range(num_hosts)
    ]
    several = rows(*hosts, count=12)
    assert [sorted(t) for t in several] == [sorted(t) for t in one]
    states = [host.get_state() for host in hosts]
    assert states == [{'next_index': 12}] * num_hosts


def test_shape_of_a_batch():
    batch = next(train_batches(CORPUS, config(), 0, host=1, num_hosts=2))
    assert (batch.shape, batch.dtype) == ((2, SEQ_LEN + 1), np.uint8)


@pytest.mark.parametrize('steps', [0, 1, 7])
def test_resumes_exactly(steps):
    whole = rows(train_batches(CORPUS, config(), seed=3), count=12)
    first = train_batches(CORPUS, config(), seed=3)
    assert rows(first, count=steps) == whole[:steps]
    state = first.get_state()
    assert state == {'next_index': steps}
    second = train_batches(CORPUS, config(), seed=3)
    take(second, 2)  # wherever it stood
    second.set_state(state)
    assert rows(second, count=12 - steps) == whole[steps:]


def test_epochs_cover_everything_once_and_in_different_orders():
    # 33 batches of 4 are 12 epochs of 11 windows.
    stream = rows(train_batches(CORPUS, config(), seed=3), count=33)
    flat = list(itertools.chain(*stream))
    epochs = [tuple(flat[i : i + 11]) for i in range(0, 132, 11)]
    assert all(sorted(e) == list(range(11)) for e in epochs)
    assert len(set(epochs)) == len(epochs)


def test_seeds_give_orders():
    def order(seed):
        return rows(train_batches(CORPUS, config(), seed=seed), count=5)

    assert order(3) == order(3)
    assert order(3) != order(4)


@pytest.mark.parametrize('num_hosts', [1, 2, 4])
def test_validation_covers_every_target_once(num_hosts):
    # 58 bytes have 57 targets: eleven windows and two targets over, so three
    # batches of four rows.
    found, counts = collections.Counter(), []
    for host in range(num_hosts):
        batches = list(val_batches(CORPUS, config(), host, num_hosts))
        counts.append(len(batches))
        for tokens, mask in batches:
            assert tokens.shape == (4 // num_hosts, SEQ_LEN + 1)
            assert mask.shape == (4 // num_hosts, SEQ_LEN)
            assert (tokens.dtype, mask.dtype) == (np.uint8, bool)
            inputs, targets = tokens[:, :-1], tokens[:, 1:]
            found.update(zip(inputs[mask], targets[mask], strict=True))
    assert counts == [3] * num_hosts
    assert found == {(i, i + 1): 1 for i in range(100, 157)}


def test_validation_padding_is_masked():
    (tokens, mask), *_ = list(val_batches(CORPUS, config(batch_size=16)))
    np.testing.assert_array_equal(mask.sum(axis=1), [5] * 11 + [2] + [0] * 4)
    np.testing.assert_array_equal(tokens[11], [155, 156, 157, 0, 0, 0])
    assert not np.any(tokens[12:])
