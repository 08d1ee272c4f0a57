"""Windows that know their documents."""

import collections

import numpy as np
import pytest

from moe.config import ConfigError
from moe.workloads.lm.data import packing
from moe.workloads.lm.data.packing import (
    BestFitWindows,
    CutWindows,
    Evenly,
    best_fit,
    check_documents,
    pieces,
)
from moe.workloads.lm.data.tokens import InMemory

# Documents of 3, 1, 14 and 2 tokens.
STARTS = [0, 3, 4, 18]
TOKENS = InMemory(np.arange(100, 120, dtype=np.uint16), STARTS)


def targets(windows):
    """How often each token is to be predicted from the one before it."""
    found = collections.Counter()
    for i in range(len(windows)):
        ids, segments = windows[i]
        assert (ids.dtype, segments.dtype) == (np.uint16, np.int32)
        assert len(ids) == len(segments)
        same = (segments[1:] == segments[:-1]) & (segments[1:] > 0)
        assert np.all(ids[1:][same] == ids[:-1][same] + 1)
        found.update(ids[1:][same].tolist())
    return found


# All but the first of each document.
DESIRED = {100 + i: 1 for i in range(20) if i not in STARTS}


def test_cut():
    windows = CutWindows(TOKENS, 7)
    found = [windows[i] for i in range(len(windows))]
    assert [ids.tolist() for ids, _ in found] == [
        list(range(100, 108)),
        list(range(107, 115)),
        [*range(114, 120), 0, 0],
    ]
    assert [segments.tolist() for _, segments in found] == [
        [1, 1, 1, 2, 3, 3, 3, 3],
        [1] * 8,
        [1, 1, 1, 1, 2, 2, 0, 0],
    ]
    assert targets(windows) == DESIRED


@pytest.mark.parametrize('length', [3, 4, 7, 13, 30])
def test_every_target_once(cache, length):
    for windows in (
        CutWindows(TOKENS, length),
        BestFitWindows(TOKENS, length, 'a'),
    ):
        assert targets(windows) == DESIRED


def test_pieces(monkeypatch):
    # Of 14 tokens 8, 7 of which one is shared, and so on; none of one token.
    monkeypatch.setattr(packing, '_BLOCK', 3)
    starts, sizes = pieces(TOKENS, 7)
    assert list(zip(starts, sizes, strict=True)) == [
        (0, 3),
        (4, 8),
        (11, 7),
        (18, 2),
    ]


def test_best_fit():
    # By hand, room 10: 8 | 7 | 5 beside nothing, then 3 beside 7, 2 beside 8,
    # 2 beside 5.
    sizes = np.array([2, 8, 3, 5, 7, 2])
    assert best_fit(sizes, 10).tolist() == [0, 0, 1, 2, 1, 2]


def test_best_fit_is_within_its_bound():
    # At most 11/9 of the fewest windows, and 6/9 (Johnson 1973; Dosa 2007).
    sizes = np.random.default_rng(0).integers(2, 60, 5000)
    window = best_fit(sizes, 65)
    filled = np.bincount(window, sizes)
    assert filled.max() <= 65
    assert filled.sum() == sizes.sum()
    assert len(filled) <= 11 / 9 * -(-sizes.sum() // 65) + 1


def test_plan_is_kept(cache, monkeypatch):
    first = BestFitWindows(TOKENS, 7, 'a')
    # 20 tokens, of which one is left out and one there twice, in 3 windows of
    # 8: 8; 7; 3 and 2.
    assert len(first) == 3
    assert first.padding() == pytest.approx(1 - 20 / 24)
    monkeypatch.setattr(packing, 'best_fit', None)
    again = BestFitWindows(TOKENS, 7, 'a')
    for i in range(3):
        for one, two in zip(first[i], again[i], strict=True):
            np.testing.assert_array_equal(one, two)


def test_padding_of_a_usual_corpus(cache):
    # Documents of 2 to 600 tokens, most of them short: under one in a hundred.
    rng = np.random.default_rng(0)
    sizes = np.minimum(rng.lognormal(4.5, 1.0, 4000).astype(int) + 2, 600)
    starts = np.cumsum(sizes) - sizes
    tokens = InMemory(np.zeros(sizes.sum(), np.uint16), starts)
    assert BestFitWindows(tokens, 512, 'b').padding() < 0.01


def test_evenly():
    assert [Evenly(range(12), 4)[i] for i in range(4)] == [0, 3, 6, 9]
    assert len(Evenly(range(12), 0)) == len(Evenly(range(12), 99)) == 12


def test_unknown_documents():
    check_documents(TOKENS, 'documents')
    with pytest.raises(ConfigError, match='end_of_text'):
        check_documents(InMemory(np.arange(9)), 'documents')
