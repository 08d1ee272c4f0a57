"""Token ids where they lie: spans, files, several as one."""

import numpy as np
import pytest

from moe.workloads.lm.data import tokens
from moe.workloads.lm.data.tokens import (
    Delimited,
    InMemory,
    Joined,
    Mapped,
    Span,
    as_tokens,
    largest_id,
    narrow,
    narrow_dtype,
    repeated_documents,
)


def written(tmp_path, ids, stored='<u2', head=b'', name='a.bin'):
    """A file of ids after some bytes, and the tokens of it."""
    path = tmp_path / name
    path.write_bytes(head + np.array(ids, stored).tobytes())
    return Mapped(str(path), stored, len(head), len(ids))


def every_span(found, ids, starts=None):
    """Compares each span, and the documents that begin in it."""
    assert len(found) == len(ids)
    for start in range(len(ids) + 1):
        for stop in range(start, len(ids) + 1):
            assert found.read(start, stop).tolist() == ids[start:stop]
            assert found.read(start, stop).dtype == found.dtype
            if starts is not None:
                inside = [s for s in starts if start <= s < stop]
                begins = found.document_starts(start, stop)
                assert begins.tolist() == inside


@pytest.mark.parametrize(
    'stored', ['<u1', '<i1', '<i2', '<i4', '<i8', '<f8', '<f4', '<u2', '>u2']
)
def test_mapped_ids_of_any_type(tmp_path, stored):
    found = written(tmp_path, [1, 2, 3, 100], stored, head=b'abc')
    every_span(found, [1, 2, 3, 100])
    assert found.dtype.itemsize <= 4
    assert found.document_starts(0, 4) is None


def test_ids_beyond_31_bits_are_marked():
    wide = np.array([5, 2**31 - 1, 2**31, -7, 2**40], np.int64)
    assert narrow(wide).tolist() == [5, 2**31 - 1, -1, -1, -1]
    assert narrow(np.array([2.0, 2.5])).tolist() == [2, -1]
    assert narrow(np.array([2**32 - 1], np.uint32)).tolist() == [-1]
    assert narrow_dtype('uint32') == narrow_dtype('<i8') == np.int32
    assert narrow_dtype('uint16') == np.uint16


def test_documents_of_a_file(tmp_path):
    np.array([0, 2, 5], '<i8').tofile(tmp_path / 'starts')
    plain = written(tmp_path, list(range(7)))
    known = Mapped(plain.path, '<u2', 0, 7, str(tmp_path / 'starts'))
    every_span(known, list(range(7)), [0, 2, 5])


def test_joined_documents(tmp_path):
    parts = [InMemory(np.array(p, np.uint8)) for p in ([1, 2], [], [3], [4])]
    every_span(Joined(parts), [1, 2, 3, 4], [0, 2, 3])
    every_span(Joined(parts, separator=9), [1, 2, 9, 9, 3, 9, 4])
    assert Joined(parts, 9).document_starts(4, 7).tolist() == [4, 6]
    assert Joined(parts, whole=False).document_starts(0, 4) is None
    mixed = Joined([*parts, written(tmp_path, [300])])
    assert mixed.dtype == np.uint16
    assert mixed[:].tolist() == [1, 2, 3, 4, 300]


def test_a_document_that_goes_on_in_the_next_file():
    parts = [InMemory(np.array(p)) for p in ([1, 0, 2], [3, 0, 4, 0])]
    cut = Delimited(Joined(parts, whole=False), 0)
    every_span(cut, [1, 0, 2, 3, 0, 4, 0], [0, 2, 5])


def test_span():
    ids = InMemory(np.arange(10), [0, 3, 4, 8])
    every_span(Span(ids, 2, 9), [2, 3, 4, 5, 6, 7, 8], [1, 2, 6])
    assert len(Span(ids, 5, 4)) == 0


def test_slices():
    found = as_tokens(np.arange(5))
    assert (found[1:3].tolist(), found[3:99].tolist()) == ([1, 2], [3, 4])
    assert found[:].tolist() == [0, 1, 2, 3, 4]
    assert as_tokens(found) is found


@pytest.mark.parametrize(('span', 'spans'), [(4, 9), (100, 1)])
def test_repeated_documents(span, spans):
    # Documents 12, 34 and 12 again, then 12 once more in the other part.
    one = InMemory(np.array([1, 2, 3, 4, 1, 2]), [0, 2, 4])
    two = InMemory(np.array([1, 2]), [0])
    found = repeated_documents([one, two], span, spans)
    assert found == (4, 2, 1.0)
    assert repeated_documents([one], span, spans) == (3, 1, 1.0)
    unknown = InMemory(np.zeros(9, int))
    assert repeated_documents([unknown], 4, 4) == (0, 0, 1.0)
    assert repeated_documents([unknown, two], 2, 2) == (1, 0, 6 / 11)


def test_largest_id(monkeypatch):
    monkeypatch.setattr(tokens, '_BLOCK', 64)
    ids = np.arange(1000) % 700
    assert largest_id(InMemory(ids)) == (0, 699, 1000)
    # Of 256 blocks of 1 token the first and the last are at the ends.
    ids = np.zeros(1000, int)
    ids[-1], ids[0] = 9, -3
    assert largest_id(InMemory(ids), at_most=256) == (-1, 9, 256)
    assert largest_id(InMemory(np.zeros(0, int))) == (0, 0, 0)
