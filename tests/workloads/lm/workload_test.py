"""The language-model task: losses of targets, and samples."""

import functools

import jax
import numpy as np
import pytest

from moe import training
from moe.config import ConfigError
from moe.workloads.lm import workload as language
from moe.workloads.lm.decode import Chunk
from moe.workloads.lm.losses import token_losses
from moe.workloads.lm.sampling import Sampling
from tests import tiny

MIXTURE = {
    'data.source': {
        'name': 'mixture',
        'sources': {
            'a': {'name': 'array', 'ids': list(range(90))},
            'b': {'name': 'array', 'ids': list(range(100, 200))},
        },
    },
    'data.eval_sources': {'c': {'name': 'array', 'ids': list(range(80))}},
    'model.num_layers': 1,
}


def test_losses_of_every_set():
    # All of two sources beside each by itself, and a set that is only
    # evaluated, all of whose 80 ids are: 64 targets in rows of 16, and 15.
    workload = tiny.parsed(MIXTURE).make_workload()
    data = workload.load_data()
    assert data.others['c'].val[:].tolist() == [*range(63, 80), *range(63)]
    variables = tiny.state(tiny.parsed(MIXTURE)).variables
    forward = jax.jit(workload.forward)
    totals = {}
    for batch in workload.eval_batches(data, 0, 1):
        out = forward(variables, batch)
        rows, mask = (np.asarray(x) for x in batch.batch)
        losses = token_losses(out.predictions[''].logits, rows[:, 1:])
        name = 'abc'[int(batch.number[0])]
        total, count = totals.get(name, (0.0, 0))
        more = np.float64(losses)[mask].sum()
        totals[name] = total + more, count + mask.sum()
        for key, mean in out.means.items():
            total, count = totals.get(key, (0.0, 0))
            totals[key] = total + float(mean.sum), count + float(mean.count)
        # Other metrics are of the first sets alone.
        assert np.any(out.predictions[''].mask) == (name != 'c')
    assert [totals[name][1] for name in 'abc'] == [16, 16, 79]
    for name in 'abc':
        np.testing.assert_allclose(totals[f'{name}/loss'], totals[name], 1e-5)
    both = np.add(totals['a'], totals['b'])
    np.testing.assert_allclose(totals['loss'], both, 1e-5)


def test_units_of_losses(monkeypatch):
    # In bits per byte where bytes are known, else as perplexity.
    bits = np.log(2)
    workload = tiny.parsed(MIXTURE).make_workload()
    found = workload.eval_metrics(
        {
            'loss': 3 * bits,
            'bytes_per_token': 1.5,
            'a/loss': 4 * bits,
            'a/bytes_per_token': 2.0,
            'c/loss': 0.0,
            'top_k_accuracy': 0.5,
        },
        {},
    )
    assert found == {
        'loss': 3 * bits,
        'bits_per_byte': 2.0,
        'a/loss': 4 * bits,
        'a/bits_per_byte': 2.0,
        'c/loss': 0.0,
        'c/perplexity': 1.0,
        'top_k_accuracy': 0.5,
    }
    notes = workload.notes(workload.load_data())
    assert any('no tokenizer' in note for note in notes)
    own = tiny.parsed().make_workload()
    assert own.eval_metrics({'loss': bits}, {})['bits_per_byte'] == 1.0


@pytest.mark.parametrize('name', ['a', 'x/y'])
def test_names_of_sets(name):
    sets = {name: {'name': 'array', 'ids': [1]}}
    with pytest.raises(ConfigError, match='eval_sources'):
        tiny.parsed({**MIXTURE, 'data.eval_sources': sets})


class Fake:
    """A generator of what a function returns, in two chunks if it can."""

    def __init__(self, function, config, variables):
        self._function = function

    def stream(self, prompts, key, *, length, sampling):
        made = self._function(prompts, length, sampling)[None]
        for token in filter(np.size, (made[:, :1], made[:, 1:])):
            full = np.ones(token.shape, bool)
            yield Chunk(token, full, np.array([False]), None, None)


def test_sample_stays_within_the_positions_trained_on(monkeypatch):
    # 16 positions: 4 and 12 more, then 8 and 8 more, then 8 and 2 more.
    windows = []

    def fake(prompts, length, sampling):
        windows.append((bytes(np.asarray(prompts[0], np.uint8)), length))
        assert sampling == Sampling(0.5, 3)
        return np.arange(length) + ord('a') + 12 * (len(windows) - 1)

    monkeypatch.setattr(language, 'Generator', functools.partial(Fake, fake))
    config = tiny.parsed()
    text = language.sample(config, {}, 'def ', 22, temperature=0.5, top=3)
    assert windows == [(b'def ', 12), (b'efghijkl', 8), (b'mnopqrst', 2)]
    assert text == 'abcdefghijklmnopqrstyz'
    # Of a long prompt only the end is read.
    windows.clear()
    language.sample(config, {}, 'x' * 30 + 'y' * 8, 3, temperature=0.5, top=3)
    assert windows == [(b'y' * 8, 3)]


def test_bytes_that_are_no_text_are_shown_as_marks(monkeypatch):
    # A zero byte ends a file; a byte above 127 alone is not UTF-8.
    made = np.array([104, 105, 0, 255])
    fake = functools.partial(Fake, lambda *args: made)
    monkeypatch.setattr(language, 'Generator', fake)
    config = tiny.parsed()
    assert language.sample(config, {}, 'x', 4) == 'hi\n\ufffd'


def test_parameters_with_more_groups_than_tokens_of_a_sequence():
    # 32 groups of a batch of 8 sequences of 16: one sequence has half of them.
    changes = {'model.moe.num_groups': 32, 'data.seq_len': 16}
    many = jax.eval_shape(lambda: training.init_state(tiny.parsed(changes)))
    one = jax.eval_shape(lambda: training.init_state(tiny.parsed()))
    assert many.params == one.params
