"""Files that are mapped while they are read."""

import numpy as np
import pytest

from moe.workloads.lm.data import mapping
from moe.workloads.lm.data.mapping import Integers, sampled_hash, within
from moe.workloads.lm.data.tokens import Joined
from tests.workloads.lm.data.tokens_test import written


def test_integers_are_read_one_by_one(tmp_path):
    path = tmp_path / 'index'
    path.write_bytes(b'x' + np.array([3, 5, 5, 9], '<i4').tobytes())
    found = Integers(str(path), '<i4', 1, 4)
    assert (found[0], found[-1], list(found)) == (3, 9, [3, 5, 5, 9])
    assert within(found, 4, 9).tolist() == [5, 5]
    with pytest.raises(IndexError):
        found[4]


def test_a_file_that_is_replaced(tmp_path):
    first = written(tmp_path, [1, 2])
    assert first[:].tolist() == [1, 2]
    written(tmp_path, [7, 8, 9], name='new').read(0, 1)
    (tmp_path / 'new').replace(first.path)
    assert first[:].tolist() == [7, 8]


def test_more_files_than_are_open(tmp_path, monkeypatch):
    # Files are mapped again when they are read again.
    parts = [
        written(tmp_path, [i, i + 1], name=f'{i}.bin')
        for i in range(mapping._MAPPED + 9)
    ]
    found = Joined(parts)
    ids = [i + j for i in range(len(parts)) for j in (0, 1)]
    for _ in range(2):
        assert found[:].tolist() == ids
    assert mapping._mapped.cache_info().currsize <= mapping._MAPPED


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
