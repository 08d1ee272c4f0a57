"""Whether the model has a row for every id."""

import numpy as np
import pytest

from moe.config import ConfigError
from moe.workloads.lm.data import tokens
from moe.workloads.lm.data.sources import Corpus
from moe.workloads.lm.data.tokens import InMemory
from moe.workloads.lm.data.vocabulary import Checked, checked


def test_every_id_is_below():
    corpus = Corpus(np.array([3, 6]), np.array([5]), '')
    found = checked(corpus, 7)
    assert found.train[:].tolist() == [3, 6]
    assert found.notes == ()
    with pytest.raises(ConfigError, match=r'= 6: must be at least 7: .* id 6'):
        checked(corpus, 6)
    with pytest.raises(ConfigError, match='= 5: must be at least 7'):
        checked(Corpus(np.array([3]), np.array([6]), ''), 5)


@pytest.mark.parametrize('id_', [-1, 2**31])
def test_ids_that_are_none(id_):
    corpus = Corpus(np.array([3, id_]), np.array([5]), '')
    with pytest.raises(ConfigError, match='data of other ids'):
        checked(corpus, 7)


def test_many_are_sampled_and_others_checked_when_read(monkeypatch):
    monkeypatch.setattr(tokens, '_BLOCK', 1)
    monkeypatch.setattr(tokens, 'LOOKED_AT', 256)
    ids = np.zeros(1000, np.uint16)
    ids[503] = 9
    sampled = {i * 999 // 255 for i in range(256)}
    assert 503 not in sampled
    found = checked(Corpus(ids, ids[:10], ''), 5)
    assert len(found.notes) == 1
    assert 'of 256 train tokens' in found.notes[0]
    assert isinstance(found.train, Checked)
    assert found.train.read(0, 503).tolist() == [0] * 503
    with pytest.raises(ConfigError, match='at least 10'):
        found.train.read(500, 504)


def test_documents():
    found = Checked(InMemory(np.arange(6), [0, 4]), 6)
    assert found.document_starts(1, 6).tolist() == [4]
    assert (len(found), found.dtype) == (6, np.int32)
