"""Text by a tokenizer, in the cache, or mapped."""

import gzip
import os

import numpy as np
import pytest

from moe.config import ConfigError
from moe.workloads.lm.data import text as text_module
from moe.workloads.lm.data import texts
from moe.workloads.lm.data.text import TextFiles
from moe.workloads.lm.data.tokenizer import read_tokenizer
from tests.workloads.lm.data.blob_test import documents

LINES = [f'{i:>19}\n' for i in range(3000)]


def same(one, two):
    """Compares two corpora."""
    assert (one.fingerprint, one.facts) == (two.fingerprint, two.facts)
    for part in ('train', 'val'):
        a, b = getattr(one, part), getattr(two, part)
        np.testing.assert_array_equal(a[:], b[:])
        everything = (0, len(a))
        np.testing.assert_array_equal(
            a.document_starts(*everything), b.document_starts(*everything)
        )


@pytest.mark.parametrize('kind', ['plain', 'gzip', 'small'])
def test_the_same_corpus_from_memory_and_from_disk(
    tmp_path, cache, monkeypatch, kind
):
    # Large plain files are mapped where they are, others are in the cache.
    for i in range(3):
        data = ''.join(LINES[1000 * i :][:1000]).encode()
        data = gzip.compress(data) if kind == 'gzip' else data
        (tmp_path / f'{i}.txt').write_bytes(data)
    source = TextFiles(f'{tmp_path}/*.txt', 0.4)
    first = source.load(7)
    assert not cache.exists()
    monkeypatch.setattr(texts, 'IN_MEMORY', 100)
    monkeypatch.setattr(text_module, 'IN_MEMORY', 100)
    block = 30_000 if kind == 'small' else 1000
    monkeypatch.setattr(text_module, 'BLOCK', block)
    same(source.load(7), first)
    kept = {'plain': 1, 'gzip': 2, 'small': 2}[kind]  # hashes, and tokens
    assert len(list(cache.iterdir())) == kept
    # Again nothing is read as a whole.
    monkeypatch.setattr(TextFiles, '_look_at', None)
    monkeypatch.setattr(texts.blob, 'write', None)
    same(source.load(7), first)


def test_a_changed_file_is_read_again(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(texts, 'IN_MEMORY', 100)
    path = tmp_path / 'a.txt'
    path.write_text(''.join(LINES))
    first = TextFiles(str(path)).load(7)
    path.write_text(''.join(reversed(LINES)))
    os.utime(path, ns=(1, 1))
    assert TextFiles(str(path)).load(7).fingerprint != first.fingerprint


def test_a_folder(tmp_path, cache):
    (tmp_path / 'deep').mkdir()
    (tmp_path / 'a.txt').write_text(''.join(LINES[:50]))
    (tmp_path / 'deep' / 'b').write_text(''.join(LINES[50:99]))
    assert TextFiles(str(tmp_path)).load(7).facts['files'] == 2


@pytest.mark.parametrize('whole', [100, 2**24])
def test_tokens(tmp_path, cache, monkeypatch, tokenizer_file, whole):
    # Long files are encoded in parts that end with a line.
    monkeypatch.setattr(text_module, '_WHOLE', whole)
    for i in range(3):
        text = ''.join(LINES[40 * i :][:40])
        (tmp_path / f'{i}.txt').write_text(text)
    source = TextFiles(f'{tmp_path}/*.txt', 0.3, tokenizer=tokenizer_file)
    corpus = source.load(7)
    found = read_tokenizer(tokenizer_file)
    each = [
        [*found.encode(''.join(LINES[40 * i :][:40])).tolist(), 0]
        for i in range(3)
    ]
    ids = [*documents(corpus.val), *documents(corpus.train)]
    assert sorted(ids) == sorted(each)
    assert len(documents(corpus.val)) == 1
    assert corpus.facts['train_tokens'] == len(corpus.train)
    assert (source.vocab_size, source.bytes_per_token) == (280, None)
    other = TextFiles(f'{tmp_path}/*.txt', 0.3).load(7)
    assert other.fingerprint != corpus.fingerprint


def test_split_by_documents(tmp_path, cache):
    for i in range(20):
        (tmp_path / f'{i}.txt').write_text(f'file {i}')
    corpus = TextFiles(f'{tmp_path}/*.txt', 0.4, split='documents').load(7)
    parts = [documents(corpus.train), documents(corpus.val)]
    found = [bytes(ids[:-1]).decode() for part in parts for ids in part]
    assert sorted(found) == sorted(f'file {i}' for i in range(20))
    assert min(map(len, parts)) >= 3


def test_a_tokenizer_that_is_not_there(tmp_path):
    source = TextFiles(str(tmp_path), tokenizer=str(tmp_path / 'none.json'))
    assert source.vocab_size == 1
    assert source.decode(np.array([5, 6])) == '5 6'
    with pytest.raises(ConfigError, match=r'^tokenizer = .*No such file'):
        source.load(7)
