"""ArrayRecord files of documents."""

import numpy as np
import pytest

from moe.config import ConfigError
from moe.workloads.lm.data import array_record, record_sizes
from moe.workloads.lm.data.array_record import ArrayRecord
from tests.workloads.lm.data.formats import write_array_record
from tests.workloads.lm.data.tokens_test import every_span

DOCUMENTS = [[1, 2, 300], [], [4], [5, 6], []]
IDS, STARTS = [1, 2, 300, 4, 5, 6], [0, 3, 4]


@pytest.mark.parametrize('dtype', ['uint16', 'uint32', 'int32', 'int64'])
def test_documents(tmp_path, cache, dtype):
    stored = np.dtype(dtype).newbyteorder('<').str
    files = write_array_record(tmp_path / 'a.array_record', DOCUMENTS, stored)
    found = ArrayRecord(files=files, dtype=dtype).tokens('files', None)
    every_span(found, IDS, STARTS)


def test_shards(tmp_path, cache):
    for i in range(3):
        name = tmp_path / f'tokens-{i}-of-3.array_record'
        write_array_record(name, [[i + 1] * (i + 2), [9]])
    found = ArrayRecord(files=str(tmp_path)).tokens('files', None)
    ids = [1, 1, 9, 2, 2, 2, 9, 3, 3, 3, 3, 9]
    every_span(found, ids, [0, 2, 3, 6, 7, 11])


def test_without_the_footer_records_are_read_once(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(record_sizes, '_zstandard', lambda: None)
    monkeypatch.setattr(array_record, '_MANY', 2)
    files = write_array_record(tmp_path / 'a', DOCUMENTS)
    every_span(ArrayRecord(files=files).tokens('files', None), IDS, STARTS)
    monkeypatch.setattr(array_record, 'ArrayRecordReader', None)
    every_span(ArrayRecord(files=files).tokens('files', None), IDS, STARTS)


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (b'', ''),
        (b'abc' * 50_000, ''),
        ({'documents': [[7]], 'stored': '<u1'}, 'no ids of uint16'),
        ({'options': 'group_size:2'}, 'group_size:1'),
        ({'documents': []}, 'has no records'),
    ],
    ids=['empty', 'other', 'odd', 'groups', 'none'],
)
def test_what_is_none(tmp_path, cache, content, words):
    path = tmp_path / 'a.array_record'
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write_array_record(path, **{'documents': DOCUMENTS, **content})
    with pytest.raises(ConfigError, match='^files = .*' + words) as caught:
        ArrayRecord(files=str(path)).tokens('files', None)
    assert '\n' not in str(caught.value)
