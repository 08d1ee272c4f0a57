"""Runs that diverge: what is kept, what is told, what helps."""

import jax
import numpy as np
import pytest

from moe import training
from moe.metrics import read_metrics
from moe.training import history
from moe.training.checkpoint import restore_run, saved_steps
from moe.training.divergence import all_finite
from moe.workloads.multitask.workload import MultiTask
from tests import tiny
from tests.training.tasks import plain_tasks
from tests.training.written import lines

FEW = {
    'steps': 12,
    'eval_every': 12,
    'log_every': 4,
    'checkpoint_every': 1,
    'keep_checkpoints': 3,
}

pytestmark = pytest.mark.slow


class Poisoned:
    """Batches of which some, by number, have a label of 1e30."""

    def __init__(self, batches, bad):
        self._batches, self._bad = batches, bad
        self.get_state, self.set_state = batches.get_state, batches.set_state

    def __next__(self):
        number = self.get_state()['next_index']
        batch = next(self._batches)
        label = np.array(batch['label'])
        label[0, 0] = 1e30 if number in self._bad else label[0, 0]
        return {**batch, 'label': label}


@pytest.fixture
def poison(monkeypatch):
    """Poisons batches of all runs."""
    plain = MultiTask.train_batches

    def put(*bad):
        monkeypatch.setattr(
            MultiTask,
            'train_batches',
            lambda self, *given: Poisoned(plain(self, *given), bad),
        )

    return put


def run(folder, **changes):
    """Trains; returns the last line of metrics."""
    config = tiny.check(plain_tasks(**FEW, **changes))
    try:
        assert training.run(config, folder)
    finally:
        # Whatever happens, all checkpoints are finite, and there is one.
        states = [
            restore_run(config, folder, step=step)
            for step in saved_steps(folder)
        ]
        assert states
        assert all(map(all_finite, states))
    return read_metrics(folder / 'metrics.jsonl')[-1]


@pytest.mark.slow
def test_the_same_run_has_the_same_bits(tmp_path):
    runs = []
    for name in ('one', 'two'):
        run(tmp_path / name, **{'deterministic': True})
        config = tiny.check(plain_tasks(**FEW))
        state = restore_run(config, tmp_path / name)
        metrics = lines(tmp_path / name)
        runs.append((jax.device_get(state._replace(key=None)), metrics))
    assert runs[0][1] == runs[1][1]
    jax.tree.map(np.testing.assert_array_equal, runs[0][0], runs[1][0])


def events(folder):
    return [event['event'] for event in history.read(folder)]


def test_a_lower_rate_goes_on_in_the_folder_of_a_divergence(tmp_path):
    # After the first update, of 1e38, no loss is finite. Its checkpoint is set
    # aside; three more updates are left out, and no checkpoint is written.
    folder, rate = tmp_path / 'run', 'optimizer.learning_rate'
    with pytest.raises(training.Diverged) as caught:
        run(folder, **{rate: 1e38})
    line = str(caught.value)
    assert 'at step 4: 3 updates in a row were left out' in line
    assert 'lower config.optimizer.learning_rate' in line
    assert '\n' not in line
    assert events(folder) == ['started', 'diverged']
    assert saved_steps(folder) == [0]
    assert (folder / 'checkpoints' / 'diverged-1').exists()
    last = run(folder, **{rate: 1e-3})
    assert last['train/skipped'] == 0
    assert last['eval/loss'] < 1e3
    assert events(folder)[-1] == 'finished'


def test_one_bad_label_is_left_out_counted_and_told_once(
    tmp_path, poison, capsys
):
    poison(2, 6)
    last = run(tmp_path)
    assert (last['step'], last['train/skipped']) == (12, 2)
    assert capsys.readouterr().out.count('left out') == 1
    assert events(tmp_path) == ['started', 'finished']
    # A checkpoint of a step whose update was left out would be that before.
    assert saved_steps(tmp_path) == [10, 11, 12]


def test_going_back_with_the_data_that_follow(tmp_path, poison, capsys):
    # The updates of steps 6, 7 and 8 are left out. It goes back to the state
    # of step 4: after that of step 5 no loss was finite.
    poison(5, 6, 7)
    last = run(tmp_path, **{'divergence.then': 'go_back'})
    assert (last['step'], last['train/skipped']) == (12, 3)
    (back,) = [e for e in history.read(tmp_path) if e['event'] == 'went back']
    assert back['to'] == 4
    assert 'going on from the state of step 4' in capsys.readouterr().out
    assert saved_steps(tmp_path) == [10, 11, 12]
    # It does not go back for ever.
    changes = {'divergence.then': 'go_back', 'divergence.max_returns': 1}
    poison(*range(2, 12))
    with pytest.raises(training.Diverged):
        run(tmp_path / 'other', **changes)
    assert events(tmp_path / 'other') == ['started', 'went back', 'diverged']
