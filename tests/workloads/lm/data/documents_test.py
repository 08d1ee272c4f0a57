"""Documents in parts of files."""

import gzip
import json

import pytest

from moe.config import ConfigError
from moe.workloads.lm.data.documents import (
    kind_of,
    parts_of,
    read_part,
)

TEXTS = [f'text {i} ' * (i % 5 + 1) for i in range(30)]


def rows(texts):
    return ''.join(json.dumps({'text': t}) + '\n' for t in texts)


def read(parts, field='text'):
    return [d.decode() for part in parts for d in read_part(part, field)]


def write_parquet(path, texts):
    pyarrow = pytest.importorskip('pyarrow')
    parquet = pytest.importorskip('pyarrow.parquet')
    table = pyarrow.table({'text': texts, 'name': texts})
    parquet.write_table(table, path, row_group_size=7)
    return str(path)


@pytest.mark.parametrize('size', [1, 7, 64, 500, 10**6])
def test_rows_are_in_one_part_each(tmp_path, size):
    path = tmp_path / 'a.jsonl'
    path.write_text(rows(TEXTS[:3]) + '\n' + rows(TEXTS[3:]).rstrip('\n'))
    parts = parts_of(str(path), 'jsonl', size)
    assert len(parts) == -(-path.stat().st_size // size)
    assert read(parts) == TEXTS


def test_compressed_rows_are_one_part(tmp_path):
    path = tmp_path / 'a.jsonl.gz'
    path.write_bytes(gzip.compress(rows(TEXTS).encode()))
    parts = parts_of(str(path), 'jsonl', 10)
    assert len(parts) == 1
    assert read(parts) == TEXTS


def test_parquet(tmp_path):
    path = write_parquet(tmp_path / 'a.parquet', TEXTS)
    parts = parts_of(path, kind_of(path), 10)
    assert len(parts) == 5  # row groups of seven
    assert read(parts) == TEXTS
    with pytest.raises(ConfigError, match="no column 'body' but text, name"):
        read(parts, 'body')


def test_text(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('one\ntwo')
    assert read(parts_of(str(path), 'text', 2)) == ['one\ntwo']
    path.write_text('')
    assert read(parts_of(str(path), 'text', 2)) == []


@pytest.mark.parametrize(
    ('name', 'kind'),
    [
        ('a.jsonl', 'jsonl'),
        ('a.jsonl.zst', 'jsonl'),
        ('b.ndjson', 'jsonl'),
        ('c.txt', 'text'),
        ('jsonl', 'text'),
    ],
)
def test_kind(tmp_path, name, kind):
    (tmp_path / name).write_text('x')
    assert kind_of(str(tmp_path / name)) == kind


@pytest.mark.parametrize(
    ('name', 'content', 'words'),
    [
        ('a.jsonl', b'{"text": "x"}\n{"body": 1}\n', 'row at 14'),
        ('a.txt', b'a\0', 'NUL'),
        ('a.txt', gzip.compress(b'x' * 99)[:-9], 'cannot be read'),
        ('a.parquet', b'PAR1abc', 'Parquet'),
    ],
    ids=['row', 'binary', 'cut', 'parquet'],
)
def test_what_is_none(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        read(parts_of(str(path), kind_of(str(path)), 10**6))
    assert '\n' not in str(caught.value)
