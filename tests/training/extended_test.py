"""Runs that go on in their folder with another config."""

import json

import chex
import pytest

from moe import training
from moe.config import ConfigError
from moe.training import history
from moe.training.checkpoint import restore_run, saved_steps
from tests import tiny
from tests.training.loop_test import lines

pytestmark = pytest.mark.slow

SHORT = {
    'model.num_layers': 1,
    'log_every': 1,
    'eval_every': 10,
    'checkpoint_every': 2,
}
STABLE = {'name': 'constant', 'warmup_steps': 2}
DECAYED = {**STABLE, 'name': 'warmup_stable_decay', 'decay_steps': 2}


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    base = tmp_path_factory.mktemp('extended')
    with tiny.kept_programs(base / 'programs'):
        yield {'data.source.files': tiny.write_corpus(base / 'corpus')}


def start(folder, corpus, **changes):
    """Runs, or goes on; returns the config."""
    config = tiny.parsed({**SHORT, **corpus, **changes})
    assert training.run(config, folder)
    return config


def training_lines(folder):
    """The lines of metrics, without the evaluations."""
    drop = lambda line: {k: v for k, v in line.items() if k[:5] != 'eval/'}
    return [drop(line) for line in lines(folder)]


def test_a_finished_run_goes_on_into_a_decay(corpus, tmp_path):
    decayed = {'optimizer.schedule': DECAYED, 'steps': 6}
    whole = start(tmp_path / 'whole', corpus, **decayed)
    stable, folder = {'optimizer.schedule': STABLE}, tmp_path / 'run'
    start(folder, corpus, steps=4, sample_length=2, **stable)
    assert len((folder / 'sample.txt').read_text()) == len('def ') + 2
    more = {**decayed, 'checkpoint_every': 1}
    again = start(folder, corpus, **more)
    # As if it had been one run, its results included.
    chex.assert_trees_all_equal(
        restore_run(again, folder), restore_run(whole, tmp_path / 'whole')
    )
    assert training_lines(folder) == training_lines(tmp_path / 'whole')
    sample = (folder / 'sample.txt').read_text()
    assert sample == (tmp_path / 'whole' / 'sample.txt').read_text()
    assert saved_steps(folder) == [2, 4, 5, 6]
    events = history.read(folder)
    assert [(e['event'], e.get('step')) for e in events] == [
        ('started', 0),
        ('finished', 4),
        ('changed', None),
        ('resumed', 4),
        ('finished', 6),
    ]
    assert events[2]['changes'] == {
        'steps': [4, 6],
        'checkpoint_every': [2, 1],
        'sample_length': [2, 4],
        'optimizer.schedule.name': ['constant', 'warmup_stable_decay'],
        'optimizer.schedule.decay_steps': ['(absent)', 2],
        'optimizer.schedule.shape': ['(absent)', '1-sqrt'],
        'optimizer.schedule.final_fraction': ['(absent)', 0.0],
    }
    written = json.loads((folder / 'config.json').read_text())
    assert written['steps'] == 6
    # No longer what it was: neither shorter, nor on a cosine all the way.
    for changes, told in (
        ({'steps': 5}, 'config.steps: 6 there, 5 now (it may be 6 or more'),
        (
            {'optimizer.schedule': {'name': 'cosine', 'warmup_steps': 2}},
            'the learning rate of step 4 of the 6 taken would have been',
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            start(folder, corpus, **{**more, **changes})
        assert told in caught.value.allowed
