"""The sizes of records by the footer of an ArrayRecord file."""

import numpy as np
import pytest

from moe.workloads.lm.data import record_sizes
from moe.workloads.lm.data.record_sizes import footer_sizes
from tests.workloads.lm.data.formats import write_array_record


def write(tmp_path, sizes, options):
    documents = [np.arange(size) % 256 for size in sizes]
    return write_array_record(tmp_path / 'a', documents, '<u1', options)


# The second footer is larger than a block of 64 KiB.
@pytest.mark.parametrize('count', [1, 20_000])
@pytest.mark.parametrize('compression', ['uncompressed', 'zstd'])
def test_sizes(tmp_path, count, compression):
    if compression == 'zstd' and record_sizes._zstandard() is None:
        pytest.skip('needs zstandard')
    sizes = np.random.default_rng(0).integers(1, 300, count)
    path = write(tmp_path, sizes, f'group_size:1,{compression}')
    assert footer_sizes(path).tolist() == sizes.tolist()


def test_empty_records(tmp_path):
    path = write(tmp_path, [0, 5, 0, 0, 7, 0], 'group_size:1,uncompressed')
    assert footer_sizes(path).tolist() == [0, 5, 0, 0, 7, 0]


def test_several_records_a_chunk(tmp_path):
    path = write(tmp_path, [4, 5, 6], 'group_size:2,uncompressed')
    assert footer_sizes(path) is None


def test_compressed_otherwise(tmp_path):
    path = write(tmp_path, [4, 5, 6], 'group_size:1,brotli')
    assert footer_sizes(path) is None


def test_another_file(tmp_path):
    path = tmp_path / 'a'
    path.write_bytes(b'abc')
    assert footer_sizes(str(path)) is None
