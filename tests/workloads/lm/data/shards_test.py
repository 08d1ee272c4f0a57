"""Shards that sources read."""

import dataclasses
import hashlib

import numpy as np
import pytest

from moe.workloads.lm.data import SOURCES, shards
from moe.workloads.lm.data.documents import parts_of
from moe.workloads.lm.data.shards import WRITERS, Shard, write_shard
from moe.workloads.lm.data.tokenizer import read_tokenizer
from moe.workloads.written_shards import finished
from tests.workloads.lm.data.documents_test import TEXTS, rows


@pytest.fixture
def shard(tmp_path, tokenizer_file):
    (tmp_path / 'a.jsonl').write_text(rows(TEXTS))
    parts = parts_of(str(tmp_path / 'a.jsonl'), 'jsonl', 10**6)
    (tmp_path / 'out').mkdir()
    return Shard(
        str(tmp_path / 'out'),
        'tokens-0',
        'megatron',
        parts,
        'text',
        tokenizer_file,
        'key',
    )


@pytest.mark.parametrize('batch', [1, 2**22])
@pytest.mark.parametrize('name', WRITERS)
def test_a_source_reads_it(
    cache, monkeypatch, shard, tokenizer_file, name, batch
):
    monkeypatch.setattr(shards, '_BATCH', batch)
    shard = dataclasses.replace(shard, format=name)
    entry = write_shard(shard)
    tokenizer = read_tokenizer(tokenizer_file)
    documents = [[*tokenizer.encode(text).tolist(), 0] for text in TEXTS]
    found = SOURCES[name](files=shard.folder).tokens('files', 0)
    assert found[:].tolist() == [i for ids in documents for i in ids]
    starts = np.cumsum([0, *map(len, documents)])[:-1]
    known = found.document_starts(0, len(found))
    np.testing.assert_array_equal(known, starts)
    assert entry['documents'] == len(TEXTS)
    assert entry['tokens'] == len(found)
    assert entry['text_bytes'] == sum(map(len, TEXTS))
    for file, about in entry['files'].items():
        data = (shard.record.parent / file).read_bytes()
        assert about == {
            'bytes': len(data),
            'sha256': hashlib.sha256(data).hexdigest(),
        }


@pytest.mark.parametrize('name', WRITERS)
def test_many_ids(tmp_path, cache, name):
    # Of 32 bits, each as its format has them.
    writer = WRITERS[name](tmp_path / 'a', 100_000)
    for ids in ([1, 99_999], [70_000]):
        writer.add(np.array(ids, np.int64))
    writer.close()
    dtype = WRITERS[name].dtype(100_000)
    options = {'dtype': dtype} if name in ('array_record', 'nanogpt') else {}
    found = SOURCES[name](files=str(tmp_path), **options).tokens('files', None)
    assert found[:].tolist() == [1, 99_999, 70_000]


def test_whether_it_is_finished(shard):
    assert finished(shard) is None
    entry = write_shard(shard)
    assert finished(shard) == entry
    assert finished(dataclasses.replace(shard, key='other')) is None
    path = shard.record.parent / 'tokens-0.bin'
    path.write_bytes(path.read_bytes()[:-1])
    assert finished(shard) is None
