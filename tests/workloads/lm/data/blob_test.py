"""Documents of text as files of ids."""

import itertools

import numpy as np
import pytest

from moe.workloads.lm.data import blob
from moe.workloads.lm.data.blob import Piece, id_dtype, open_part, validates
from moe.workloads.lm.data.tokenizer import Bytes, read_tokenizer


def digest(number):
    """A hash whose share of all hashes is number / 256."""
    return bytes([number]) + b'\0' * 31


def documents(found):
    """The documents of a part, as lists."""
    starts = [*found.document_starts(0, len(found)).tolist(), len(found)]
    pairs = itertools.pairwise(starts)
    return [found[a:b].tolist() for a, b in pairs]


@pytest.mark.parametrize('batch', [1, 2**22])
def test_documents(tmp_path, monkeypatch, batch):
    monkeypatch.setattr(blob, '_BATCH', batch)
    pieces = [
        Piece(b'ab', digest(64), False),
        Piece(b'c', digest(64), True),
        Piece(b'd', digest(200), True),
        Piece(b'ef', digest(10), True),
        Piece(b'd', digest(200), True),
    ]
    facts = blob.write(tmp_path, pieces, Bytes(), 0.25)
    # Below a quarter of 256 is 10 alone.
    assert facts == {
        'dtype': '|u1',
        'repeated': 1,
        'train': {'tokens': 8, 'documents': 3},
        'val': {'tokens': 3, 'documents': 1},
    }
    train, val = (open_part(tmp_path, facts, part) for part in blob.PARTS)
    assert documents(train) == [[97, 98, 99, 0], [100, 0], [100, 0]]
    assert documents(val) == [[101, 102, 0]]


def test_all_for_training(tmp_path):
    pieces = [Piece(b'a', digest(0), True)]
    facts = blob.write(tmp_path, pieces, Bytes(), None)
    val = open_part(tmp_path, facts, 'val')
    assert (len(val), val[:].tolist()) == (0, [])
    assert open_part(tmp_path, facts, 'train')[:].tolist() == [97, 0]


def test_tokens(tmp_path, tokenizer_file):
    found = read_tokenizer(tokenizer_file)
    facts = blob.write(
        tmp_path, [Piece(b'the fox', b'8' * 8, True)], found, 0.0
    )
    assert facts['dtype'] == '<u2'
    ids = open_part(tmp_path, facts, 'train')[:]
    assert ids.tolist() == [*found.encode('the fox').tolist(), 0]


def test_share_by_hash():
    assert validates(digest(63), 0.25)
    assert not validates(digest(64), 0.25)
    assert not validates(digest(0), 0.0)


def test_dtypes():
    sizes = [256, 257, 65_536, 65_537]
    found = [id_dtype(size) for size in sizes]
    assert found == [np.dtype(d) for d in ('<u1', '<u2', '<u2', '<i4')]
