"""Megatron's indexed datasets: every dtype, documents, mistakes."""

import struct

import pytest

from moe.config import ConfigError
from moe.workloads.lm.data import megatron
from moe.workloads.lm.data.megatron import Megatron, read_index
from tests.workloads.lm.data.formats import MEGATRON, write_megatron
from tests.workloads.lm.data.tokens_test import every_span

# Three documents of five sequences, one of which is empty.
DOCUMENTS = [[[1, 2, 3]], [[4], [], [5, 6]], [[7, 0]]]
IDS, STARTS = [1, 2, 3, 4, 5, 6, 7, 0], [0, 3, 6]


@pytest.mark.parametrize('code', MEGATRON)
def test_every_dtype(tmp_path, code):
    prefix = write_megatron(tmp_path / 'a', DOCUMENTS, code)
    found = Megatron(files=prefix).tokens('files', None)
    every_span(found, IDS, STARTS)


@pytest.mark.parametrize('modes', [False, True])
@pytest.mark.parametrize('order', [None, [4, 2, 0, 1, 3]])
def test_sequences_in_any_order(tmp_path, order, modes):
    prefix = write_megatron(tmp_path / 'a', DOCUMENTS, 8, order, modes)
    every_span(Megatron(files=prefix).tokens('files', None), IDS, STARTS)


def test_empty_documents(tmp_path):
    documents = [[], [[1, 2]], [], [[3]], []]
    prefix = write_megatron(tmp_path / 'a', documents)
    every_span(Megatron(files=prefix).tokens('files', None), [1, 2, 3], [0, 2])


@pytest.mark.parametrize('name', ['', 'a', 'a.idx', 'a.bin', '*', '*.idx'])
def test_names(tmp_path, name):
    write_megatron(tmp_path / 'a', DOCUMENTS)
    files = str(tmp_path / name) if name else str(tmp_path)
    assert len(Megatron(files=files).tokens('files', None)) == 8


def test_several_in_the_order_of_their_numbers(tmp_path):
    for i in (10, 9):
        write_megatron(tmp_path / f'part_{i}', [[[i, i]]])
    found = Megatron(files=f'{tmp_path}/part_*').tokens('files', None)
    every_span(found, [9, 9, 10, 10], [0, 2])


def test_corpus(tmp_path):
    prefix = write_megatron(tmp_path / 'a', [[[i] * 10] for i in range(20)])
    corpus = Megatron(files=prefix, val_fraction=0.2).load(4)
    # The last four documents of ten tokens each.
    last = [i for i in (16, 17, 18, 19) for _ in range(10)]
    assert corpus.val[:].tolist() == last
    assert len(corpus.train) == 160
    assert corpus.facts == {
        'files': 1,
        'train_tokens': 160,
        'val_tokens': 40,
    }


def test_long_indexes_are_checked_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(megatron, '_BLOCK', 2)
    monkeypatch.setattr(megatron, '_CHECKED', 6)
    documents = [[[i]] for i in range(40)]
    prefix = write_megatron(tmp_path / 'a', documents)
    index = read_index(f'{prefix}.idx')
    assert megatron._is_contiguous(index)
    prefix = write_megatron(tmp_path / 'b', documents, order=range(39, -1, -1))
    assert not megatron._is_contiguous(read_index(f'{prefix}.idx'))


def write(tmp_path, **changes):
    """A dataset whose header has other values."""
    prefix = write_megatron(tmp_path / 'a', DOCUMENTS)
    head = {
        'magic': b'MMIDIDX\0\0',
        'version': 1,
        'code': 8,
        'sequences': 5,
        'documents': 4,
    }
    head |= changes
    data = bytearray((tmp_path / 'a.idx').read_bytes())
    data[:34] = struct.pack('<9sQBQQ', *head.values())
    (tmp_path / 'a.idx').write_bytes(data)
    return prefix


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'magic': b'TNTIDX\0\0\0'}, 'older format'),
        ({'magic': b'something'}, 'does not begin with MMIDIDX'),
        ({'version': 2}, 'version 2, not 1'),
        ({'code': 9}, 'unknown dtype code 9'),
        ({'sequences': 99}, 'bytes of the'),
        ({'sequences': 0, 'documents': 1}, 'no sequences'),
        ({'code': 5}, 'its index says'),
    ],
    ids=['old', 'other', 'version', 'code', 'cut', 'empty', 'short'],
)
def test_what_is_none(tmp_path, changes, words):
    files = write(tmp_path, **changes)
    with pytest.raises(ConfigError, match=words) as caught:
        Megatron(files=files).tokens('files', None)
    assert (caught.value.field, caught.value.value) == ('files', files)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('ending', ['bin', 'idx'])
def test_half_of_a_pair(tmp_path, ending):
    write_megatron(tmp_path / 'a', DOCUMENTS)
    (tmp_path / f'a.{ending}').unlink()
    other = {'bin': 'idx', 'idx': 'bin'}[ending]
    with pytest.raises(ConfigError, match=rf'a\.{ending} is not there'):
        Megatron(files=f'{tmp_path}/a.{other}').tokens('files', None)


def test_a_cut_bin(tmp_path):
    prefix = write_megatron(tmp_path / 'a', DOCUMENTS)
    data = (tmp_path / 'a.bin').read_bytes()
    (tmp_path / 'a.bin').write_bytes(data[:-2])
    with pytest.raises(ConfigError, match='14 bytes of the 16'):
        Megatron(files=prefix).tokens('files', None)


def test_fingerprint(tmp_path):
    def fingerprint(documents, folder):
        (tmp_path / folder).mkdir()
        prefix = write_megatron(tmp_path / folder / folder, documents)
        return Megatron(files=prefix).load(1).fingerprint

    same = fingerprint(DOCUMENTS, 'a')
    assert same == fingerprint(DOCUMENTS, 'b')
    other = [*DOCUMENTS[:-1], [[7, 1]]]
    assert same != fingerprint(other, 'c')
    joined = [[[1, 2, 3]], [[4, 5, 6]], [[7, 0]]]
    assert same != fingerprint(joined, 'd')
