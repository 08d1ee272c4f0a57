"""Sources that are mixed by weight."""

import dataclasses
import fractions
import itertools

import numpy as np
import pytest

from moe.config import ConfigError, parse
from moe.workloads.lm.data.array import ArraySource
from moe.workloads.lm.data.mixture import (
    MixedExamples,
    Mixture,
    Proportions,
    check_tokenizers,
    mixed,
)
from moe.workloads.lm.data.packing import Packed
from moe.workloads.lm.data.sources import Corpus, Mixed
from moe.workloads.lm.data.vocabulary import checked
from moe.workloads.lm.data.windows import (
    DataConfig,
    OfSet,
    train_batches,
    val_batches,
)
from tests import tiny


@pytest.mark.parametrize(
    'weights', [[1], [1, 1], [0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [7, 1, 1, 2]]
)
def test_proportions(weights):
    found = Proportions(weights)
    seen = [0] * len(weights)
    share = [fractions.Fraction(str(w)) for w in weights]
    share = [w / sum(share) for w in share]
    for index in range(220):
        assert found.counts(index) == seen
        for count, w in zip(seen, share, strict=True):
            assert abs(count - index * w) < len(weights)
            if all((index * w).denominator == 1 for w in share):
                assert count == index * w
        source, before = found.locate(index)
        assert before == seen[source]
        seen[source] += 1


def test_far_on():
    # Beyond what a float holds exactly.
    found = Proportions([1, 2])
    assert found.counts(3 * 2**60) == [2**60, 2 * 2**60]
    located = [found.locate(3 * 2**60 + i) for i in range(3)]
    assert sorted(located) == [
        (0, 2**60),
        (1, 2 * 2**60),
        (1, 2 * 2**60 + 1),
    ]


def test_weights_by_step():
    # Four examples a step: two steps in halves, then one of four is of a.
    each = {name: Counting(name) for name in 'ab'}
    stages = [(0, {'a': 1, 'b': 1}), (2, {'b': 3, 'a': 1})]
    found = MixedExamples(each, Mixed({}, stages), 4, np.dtype(object))
    steps = [[found.locate(4 * t + i) for i in range(4)] for t in range(4)]
    shares = [sum(source == 0 for source, _ in step) for step in steps]
    assert shares == [2, 2, 1, 1]
    # Each source goes on where it was.
    for source, count in ((0, 6), (1, 10)):
        order = [n for step in steps for s, n in step if s == source]
        assert order == list(range(count))


class Counting:
    def __init__(self, name):
        self.name = name


def corpus(first, size, starts=None):
    ids = np.arange(first, first + size)
    return Corpus(ids, ids[: size // 3], str(first), {'train_tokens': size})


PARTS = {'a': corpus(0, 61), 'b': corpus(1000, 91)}
STAGES = [(0, {'a': 3, 'b': 1}), (5, {'a': 1, 'b': 1})]
SETTINGS = DataConfig(seq_len=3, batch_size=8)


@pytest.mark.parametrize('num_hosts', [1, 2])
def test_batches(num_hosts):
    whole = mixed(PARTS, Mixed(PARTS, STAGES))
    hosts = [
        train_batches(whole, SETTINGS, 0, h, num_hosts)
        for h in range(num_hosts)
    ]
    order = {'a': [], 'b': []}
    for step in range(10):
        rows = np.empty((8, 4), int)
        for number, host in enumerate(hosts):
            rows[number::num_hosts] = next(host)
        from_a = int(np.sum(rows[:, 0] < 1000))
        assert from_a == (6 if step < 5 else 4)
        for name, low in (('a', 0), ('b', 1000)):
            mine = [r for r in rows if low <= r[0] < low + 1000]
            order[name] += [(int(r[0]) - low) // 3 for r in mine]
            for row in mine:
                assert row.tolist() == list(range(row[0], row[0] + 4))
    # Of 20 windows, and of 30: each once before one comes again.
    assert sorted(order['a'][:20]) == list(range(20))
    assert sorted(order['b'][:30]) == list(range(30))
    # Resumes, on one host as on two.
    state = hosts[0].get_state()
    assert state == {'next_index': 10}
    again = train_batches(whole, SETTINGS, 0)
    again.set_state({'next_index': 9})
    assert sorted(map(tuple, next(again).tolist())) == sorted(
        map(tuple, rows.tolist())
    )


def test_every_set_is_evaluated_by_itself():
    whole = mixed(PARTS, Mixed(PARTS, STAGES))
    whole = dataclasses.replace(whole, others={'c': corpus(5000, 30)})
    found = {}
    for batch in val_batches(whole, SETTINGS):
        assert isinstance(batch, OfSet)
        tokens, mask = batch.batch
        assert (tokens.dtype, tokens.shape) == (np.int32, (8, 4))
        (number,) = set(batch.number.tolist())
        found.setdefault(number, []).extend(tokens[:, 1:][mask].tolist())
    assert found == {
        0: list(range(1, 20)),
        1: list(range(1001, 1030)),
        2: list(range(5001, 5010)),
    }


def test_of_a_config():
    one, two = list(range(50)), list(range(60))
    section = {
        'name': 'mixture',
        'sources': {
            'a': {'name': 'array', 'ids': one},
            'b': {'name': 'array', 'ids': two, 'val_fraction': 0.5},
        },
        'weights': {'a': 0.25, 'b': 0.75},
        'stages': [{'step': 4, 'weights': {'a': 1, 'b': 1}}],
    }
    source = parse(DataConfig, {'source': section}).source
    assert source.vocab_size == 60
    found = source.load(3)
    assert found.facts == {
        'a_train_tokens': 46,
        'a_val_tokens': 4,
        'b_train_tokens': 30,
        'b_val_tokens': 30,
    }
    assert (len(found.train), len(found.val)) == (76, 34)
    assert [step for step, _ in found.mixture.stages] == [0, 4]
    with pytest.raises(ConfigError, match='at least 60'):
        checked(found, 59)
    assert checked(found, 60).fingerprint == found.fingerprint


def source(**options):
    one = ArraySource(ids=tuple(range(50)))
    return Mixture(**{'sources': {'a': one, 'b': one}, **options})


@pytest.mark.parametrize(
    ('options', 'field'),
    [
        ({'sources': {}}, 'sources'),
        ({'weights': {'a': 1.0}}, 'weights'),
        ({'weights': {'a': 1.0, 'b': 1.0, 'c': 1.0}}, 'weights'),
        ({'sources': {'a/b': ArraySource()}}, 'sources'),
    ],
)
def test_what_is_refused(options, field):
    with pytest.raises(ConfigError) as caught:
        source(**options)
    assert caught.value.field == field


def test_a_source_that_cannot_be_read():
    with pytest.raises(ConfigError) as caught:
        source(sources={'a': ArraySource(ids=(1, 2))}).load(3)
    assert caught.value.field == 'sources.a.ids'


def test_several_tokenizers(tokenizer_file):
    bpe = ArraySource(ids=(1, 2), tokenizer=tokenizer_file)
    unknown = ArraySource(ids=(1, 2))
    check_tokenizers({'a': bpe, 'b': unknown, 'c': bpe}, 'sources')

    class Other(ArraySource):
        def tokenizer_digest(self):
            return 'other'

    with pytest.raises(ConfigError, match='of the tokenizer of a'):
        check_tokenizers({'a': bpe, 'b': Other()}, 'sources')


def test_packed_examples_have_one_dtype():
    one = [Packed(np.zeros(3, np.uint8), np.ones(3, np.int32))]
    found = MixedExamples(
        {'a': one}, Mixed({}, [(0, {'a': 1})]), 1, np.dtype(np.int32)
    )
    assert found[0].tokens.dtype == np.int32
    assert next(iter(itertools.islice(found[0], 1))).tolist() == [0, 0, 0]


def staged(*steps):
    """The stages of a run of 8 sequences of 16 tokens a step."""
    source = {
        'name': 'mixture',
        'sources': {name: {'name': 'text'} for name in 'ab'},
        'stages': [{'step': s, 'weights': {'a': 1, 'b': 2}} for s in steps],
    }
    config = tiny.parsed({'data.source': source})
    return [stage.step for stage in config.data.source.stages]


def test_stages_begin_at_tokens():
    # 128 tokens a step, rounded up.
    assert staged(3, '512 tokens', '1e3 tokens') == [3, 4, 8]


@pytest.mark.parametrize(
    ('steps', 'field'),
    [
        ((3, 3), 'stages'),
        ((5, '512 tokens'), 'stages'),
        (('9 rows',), 'stages[0].step'),
        ((0,), 'stages[0].step'),
    ],
    ids=str,
)
def test_stages_that_do_not_ascend(steps, field):
    with pytest.raises(ConfigError) as caught:
        staged(*steps)
    assert caught.value.field == f'config.data.source.{field}'
