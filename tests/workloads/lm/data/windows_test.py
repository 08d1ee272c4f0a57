"""Windows of tokens: shuffled, resumed, shared by hosts."""

import collections
import itertools

import numpy as np
import pytest

from moe.workloads.lm.data import Corpus
from moe.workloads.lm.data.packing import Packed
from moe.workloads.lm.data.tokens import InMemory
from moe.workloads.lm.data.windows import (
    DataConfig,
    train_batches,
    val_batches,
    windows_of,
)

SEQ_LEN = 5
# 57 = 1 + 11 * 5 + 1 tokens: eleven windows, all different, and one over.
TRAIN = np.arange(57, dtype=np.uint8)
VAL = np.arange(100, 158, dtype=np.uint8)
CORPUS = Corpus(TRAIN, VAL, '')


def config(batch_size=4, **changes):
    return DataConfig(seq_len=SEQ_LEN, batch_size=batch_size, **changes)


def take(batches, count):
    return [np.array(b) for b in itertools.islice(batches, count)]


def window(row):
    """Which of the eleven windows a row is."""
    index, rest = divmod(int(row[0]), SEQ_LEN)
    assert rest == 0
    np.testing.assert_array_equal(row, TRAIN[5 * index : 5 * index + 6])
    return index


def rows(*streams, count):
    """The windows of the first batches, the hosts' shares side by side."""
    shares = zip(*(take(s, count) for s in streams), strict=True)
    return [[window(row) for share in t for row in share] for t in shares]


@pytest.mark.parametrize('num_hosts', [2, 4])
def test_batches_are_the_same_on_any_number_of_hosts(num_hosts):
    # Twelve batches of four: past the ends of four epochs of eleven.
    one = rows(train_batches(CORPUS, config(), seed=3), count=12)
    hosts = [
        train_batches(CORPUS, config(), 3, host, num_hosts)
        for host in range(num_hosts)
    ]
    several = rows(*hosts, count=12)
    assert [sorted(t) for t in several] == [sorted(t) for t in one]
    states = [host.get_state() for host in hosts]
    assert states == [{'next_index': 12}] * num_hosts


def test_shape_of_a_batch():
    batch = next(train_batches(CORPUS, config(), 0, host=1, num_hosts=2))
    assert (batch.shape, batch.dtype) == ((2, SEQ_LEN + 1), np.uint8)


def test_batches_of_one():
    # The same windows in the same order as in batches of four.
    one = rows(train_batches(CORPUS, config(1), seed=3), count=24)
    four = rows(train_batches(CORPUS, config(4), seed=3), count=6)
    assert list(itertools.chain(*one)) == list(itertools.chain(*four))
    assert [m.sum() for _, m in val_batches(CORPUS, config(1))] == [5] * 11 + [
        2
    ]


def test_a_batch_larger_than_the_corpus():
    # Each of the eleven windows is there at least twice, as epochs follow.
    (first,) = rows(train_batches(CORPUS, config(25), seed=3), count=1)
    counts = collections.Counter(first)
    assert len(counts) == 11
    assert set(counts.values()) == {2, 3}


@pytest.mark.parametrize('steps', [0, 1, 7])
def test_resumes_exactly(steps):
    whole = rows(train_batches(CORPUS, config(), seed=3), count=12)
    first = train_batches(CORPUS, config(), seed=3)
    assert rows(first, count=steps) == whole[:steps]
    state = first.get_state()
    assert state == {'next_index': steps}
    second = train_batches(CORPUS, config(), seed=3)
    take(second, 2)  # wherever it stood
    second.set_state(state)
    assert rows(second, count=12 - steps) == whole[steps:]


def test_epochs_cover_everything_once_and_in_different_orders():
    # 33 batches of 4 are 12 epochs of 11 windows.
    stream = rows(train_batches(CORPUS, config(), seed=3), count=33)
    flat = list(itertools.chain(*stream))
    epochs = [tuple(flat[i : i + 11]) for i in range(0, 132, 11)]
    assert all(sorted(e) == list(range(11)) for e in epochs)
    assert len(set(epochs)) == len(epochs)


def test_seeds_give_orders():
    def order(seed):
        return rows(train_batches(CORPUS, config(), seed=seed), count=5)

    assert order(3) == order(3)
    assert order(3) != order(4)


@pytest.mark.parametrize('num_hosts', [1, 2, 4])
def test_validation_covers_every_target_once(num_hosts):
    # 58 tokens have 57 targets: eleven windows and two targets over, so three
    # batches of four rows.
    found, counts = collections.Counter(), []
    for host in range(num_hosts):
        batches = list(val_batches(CORPUS, config(), host, num_hosts))
        counts.append(len(batches))
        for tokens, mask in batches:
            assert tokens.shape == (4 // num_hosts, SEQ_LEN + 1)
            assert mask.shape == (4 // num_hosts, SEQ_LEN)
            assert (tokens.dtype, mask.dtype) == (np.uint8, bool)
            inputs, targets = tokens[:, :-1], tokens[:, 1:]
            found.update(zip(inputs[mask], targets[mask], strict=True))
    assert counts == [3] * num_hosts
    assert found == {(i, i + 1): 1 for i in range(100, 157)}


def test_share_of_validation():
    # Of the twelve starts 100, 105, ..., 155 each third.
    batches = list(val_batches(CORPUS, config(3, eval_sequences=4)))
    starts = [t[:, 0][m[:, 0]].tolist() for t, m in batches]
    assert starts == [[100, 115, 130], [145]]
    for count in (0, 12, 99):
        found = val_batches(CORPUS, config(3, eval_sequences=count))
        assert len(list(found)) == 4


def test_validation_padding_is_masked():
    (tokens, mask), *_ = list(val_batches(CORPUS, config(batch_size=16)))
    np.testing.assert_array_equal(mask.sum(axis=1), [5] * 11 + [2] + [0] * 4)
    np.testing.assert_array_equal(tokens[11], [155, 156, 157, 0, 0, 0])
    assert not np.any(tokens[12:])


@pytest.mark.parametrize('dtype', [np.uint16, np.int32])
def test_tokens_of_any_width(dtype):
    # Ids beyond a byte arrive as they are.
    corpus = Corpus(TRAIN.astype(dtype) + 1000, VAL.astype(dtype) + 1000, '')
    batch = next(train_batches(corpus, config(), seed=3))
    assert batch.dtype == dtype
    assert batch.min() >= 1000
    tokens, mask = next(iter(val_batches(corpus, config())))
    assert tokens.dtype == dtype
    assert tokens[:, :-1][mask].min() == 1100


# 57 tokens in documents of 9, 1, 20 and 27.
DOCUMENTS = Corpus(
    InMemory(TRAIN, [0, 9, 10, 30]), InMemory(VAL, [0, 9, 10, 30]), 'x'
)


@pytest.mark.parametrize('num_hosts', [1, 2])
@pytest.mark.parametrize('packing', ['documents', 'best_fit'])
def test_batches_of_known_documents(cache, packing, num_hosts):
    # In an epoch and in an evaluation each target is there once.
    settings = config(4, packing=packing)
    windows = len(windows_of(DOCUMENTS, 'train', settings))
    hosts = [
        train_batches(DOCUMENTS, settings, 3, host, num_hosts)
        for host in range(num_hosts)
    ]
    rows = []
    while len(rows) < windows:
        for host in hosts:
            batch = next(host)
            assert isinstance(batch, Packed)
            assert batch.tokens.shape == (4 // num_hosts, SEQ_LEN + 1)
            assert batch.segments.dtype == np.int32
            rows += list(zip(*batch, strict=True))
    one = train_batches(DOCUMENTS, settings, 3)
    batches = itertools.islice(one, len(rows) // 4)
    whole = [row for batch in batches for row in zip(*batch, strict=True)]
    assert sorted(map(str, whole)) == sorted(map(str, rows))
    targets = collections.Counter(t for r in whole[:windows] for t in of(r))
    desired = {i: 1 for i in range(57) if i not in (0, 9, 10, 30)}
    assert targets == desired
    found = collections.Counter()
    for host in range(num_hosts):
        for batch in val_batches(DOCUMENTS, settings, host, num_hosts):
            assert batch.tokens.shape == (4 // num_hosts, SEQ_LEN + 1)
            for row in zip(*batch, strict=True):
                found.update(of(row))
    firsts = (100, 109, 110, 130)
    assert found == {i: 1 for i in range(100, 158) if i not in firsts}


def of(row):
    """The targets of a window: tokens that follow one of their document."""
    tokens, segments = row
    same = (segments[1:] == segments[:-1]) & (segments[1:] > 0)
    return tokens[1:][same].tolist()
