"""What happened to a run."""

import pytest

from moe.training import history
from moe.training.history import CHANGED, FINISHED, STARTED


def test_events_come_back(tmp_path):
    assert history.read(tmp_path) == []
    history.record(tmp_path, STARTED, step=0)
    path = tmp_path / 'history.jsonl'
    path.write_text(path.read_text() + '[]\n{"event": 3}\n{"event": "res')
    history.record(tmp_path, CHANGED, changes={'log_every': [1, 2]})
    first, second = history.read(tmp_path)
    assert (first['event'], first['step']) == (STARTED, 0)
    assert second['changes'] == {'log_every': [1, 2]}
    assert {'time', 'host', 'pid'} <= set(first)


@pytest.mark.parametrize(
    ('ends', 'file', 'finished'),
    [
        ([], 'end.txt', True),  # of before there was a history
        ([], 'other.txt', False),
        ([6], 'end.txt', True),
        ([6], 'other.txt', False),
        ([3], 'end.txt', False),  # went on to 6, and has the results of 3
        ([3, 6], 'end.txt', True),
        ([None], 'end.txt', False),
    ],
)
def test_a_run_is_finished_at_its_last_step(tmp_path, ends, file, finished):
    (tmp_path / file).write_text('')
    history.record(tmp_path, STARTED, step=0)
    for step in ends:
        history.record(tmp_path, FINISHED, step=step)
    assert history.is_finished(tmp_path, 'end.txt', 6) is finished
