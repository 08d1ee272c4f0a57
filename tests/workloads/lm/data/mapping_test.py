"""Files that are mapped while they are read."""

import numpy as np
import pytest

from moe.workloads.lm.data import mapping
from moe.workloads.lm.data.mapping import Integers, within
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
