"""The files of V-MoE's checkpoints, whole and not."""

import numpy as np
import pytest

from moe.checkpoints.vmoe.files import read_arrays, read_index
from moe.config import ConfigError
from tests.checkpoints.vmoe import written


def test_arrays_are_read_as_they_were_written(tmp_path):
    params = written.parameters(1, (0,))
    written.write(tmp_path / 'a', params, shards=3)
    index = read_index(tmp_path / 'a.index')
    assert list(index.arrays) == [n for n, _ in written.in_order(params)]
    found = read_arrays(index, index.arrays)
    for name, x in params.items():
        np.testing.assert_array_equal(found[name], x)


def test_files_that_are_not_whole_are_refused(tmp_path):
    params = written.parameters(1, (0,))
    path = tmp_path / 'a.index'
    first, second = (tmp_path / f'a.data-0000{i}-of-00002' for i in (0, 1))

    def refused():
        read = lambda index: read_arrays(index, index.arrays)
        with pytest.raises(ConfigError) as caught:
            read(read_index(path))
        return str(caught.value)

    written.write(tmp_path / 'a', params, version=None)
    assert "version = None: must be '20220622'" in refused()
    # A piece of an array that is not whole.
    written.write(tmp_path / 'a', params, cut=True)
    assert 'pieces that are not the whole array' in refused()
    # Shards without the last array.
    written.write(tmp_path / 'a', dict(written.in_order(params)[:-1]))
    short = first.read_bytes(), second.read_bytes()
    written.write(tmp_path / 'a', params)
    whole = second.read_bytes()
    first.write_bytes(short[0])
    second.write_bytes(short[1])
    assert 'without a piece of' in refused()
    second.write_bytes(whole[:-9])
    assert str(second) in refused()
    second.unlink()
    assert 'must be there: the checkpoint needs it' in refused()
    path.write_bytes(b'\x93\x01')
    assert str(path) in refused()
