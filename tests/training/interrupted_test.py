"""Runs that end early, and go on: what is kept, and what is made up for."""

import os
import signal

import pytest

from moe import training
from moe.config import ConfigError, changed
from moe.metrics import read_metrics
from moe.training import history
from moe.training.lock import locked
from moe.training.trainer import MeshTrainer
from moe.workloads.lm.workload import Language
from tests import tiny
from tests.training.written import lines

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    base = tmp_path_factory.mktemp('runs')
    changes = {
        'data.source.files': tiny.write_corpus(base / 'corpus'),
        'model.moe_every': 0,
        'model.num_layers': 1,
        'sample_length': 0,
        'log_every': 2,
    }
    with tiny.kept_programs(base / 'programs'):
        yield tiny.plain(changes)


def run(folder, plain, **changes):
    changes = {name.replace('__', '.'): v for name, v in changes.items()}
    return training.run(tiny.check(changed(plain, changes)), folder)


def events(folder):
    return [event['event'] for event in history.read(folder)]


@pytest.fixture(scope='module')
def whole(plain, tmp_path_factory):
    """A run of 6 steps that nothing interrupts, evaluated at 3 and 6."""
    folder = tmp_path_factory.mktemp('whole') / 'run'
    assert run(folder, plain)
    return folder


@pytest.mark.parametrize('after', [3, 6])
def test_an_evaluation_is_made_up_for(
    plain, whole, tmp_path, monkeypatch, capsys, after
):
    # The signal comes while the first validation batch after a step is made.
    given, folder = MeshTrainer.evaluate, tmp_path / 'run'

    def interrupted(self):
        for result in given(self):
            if int(self.state.step) == after:
                signal.raise_signal(signal.SIGTERM)
            yield result

    monkeypatch.setattr(MeshTrainer, 'evaluate', interrupted)
    assert not run(folder, plain)
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == f'stopped at step {after}; the same command resumes it'
    last = read_metrics(folder / 'metrics.jsonl')[-1]
    assert last['step'] == after
    assert 'eval/loss' not in last
    assert not (folder / 'sample.txt').exists()
    monkeypatch.setattr(MeshTrainer, 'evaluate', given)
    assert run(folder, plain)
    assert lines(folder) == lines(whole)
    assert events(folder) == ['started', 'stopped', 'resumed', 'finished']
    assert not (folder / 'run.lock').exists()


@pytest.mark.parametrize('phase', ['load_data', 'init', 'finalize'])
def test_what_does_not_ask_ends_and_is_done_again(
    plain, whole, tmp_path, monkeypatch, capsys, phase
):
    given, folder = getattr(Language, phase), tmp_path / 'run'

    def interrupted(*args):
        signal.raise_signal(signal.SIGINT)
        return given(*args)

    monkeypatch.setattr(Language, phase, interrupted)
    assert not run(folder, plain)
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == 'stopped; the same command resumes it'
    assert (folder / 'metrics.jsonl').exists() == (phase == 'finalize')
    assert not (folder / 'sample.txt').exists()
    monkeypatch.setattr(Language, phase, given)
    assert run(folder, plain)
    assert lines(folder) == lines(whole)
    assert (folder / 'sample.txt').exists()


def test_intervals_may_change(plain, whole, tmp_path):
    folder = tmp_path / 'run'
    assert run(folder, plain)
    assert run(folder, plain, log_every=1, keep_checkpoints=1)
    changed = history.read(folder)[-1]
    assert changed['event'] == 'changed'
    assert changed['changes'] == {
        'keep_checkpoints': [9, 1],
        'log_every': [2, 1],
    }
    with pytest.raises(ConfigError, match='seed: 0 there, 1 now'):
        run(folder, plain, seed=1)


def test_a_lower_rate_after_a_divergence(plain, tmp_path):
    folder, plain = tmp_path / 'run', changed(plain, {'checkpoint_every': 3})
    with pytest.raises(training.Diverged):
        run(folder, plain, optimizer__learning_rate=1e30)
    assert events(folder) == ['started', 'diverged']
    with pytest.raises(ConfigError, match='it may be lower after a diverg'):
        run(folder, plain, optimizer__learning_rate=1e31)
    assert run(folder, plain)
    *_, lowered, went_on, _ = history.read(folder)
    assert lowered['changes'] == {'optimizer.learning_rate': [1e30, 3e-3]}
    assert went_on['event'] in ('started', 'resumed')
    # What had been logged before and is done again stands there once.
    steps = [m['step'] for m in read_metrics(folder / 'metrics.jsonl')]
    assert steps == [1, 2, 3, 4, 6]
    with pytest.raises(ConfigError, match='after a divergence alone'):
        run(folder, plain, optimizer__learning_rate=1e-4)


def test_two_runs_in_one_folder(plain, tmp_path):
    folder = tmp_path / 'run'
    with (
        locked(folder),
        pytest.raises(ConfigError, match=f'process {os.getpid()} of'),
    ):
        run(folder, plain)
    assert list(folder.iterdir()) == []
    assert run(folder, plain)
