"""What happened to a run, and what may change in its folder."""

import pytest

from moe.training import history
from moe.training.history import CHANGED, DIVERGED, RESUMED, STARTED


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


RATE = 'optimizer.learning_rate'
ALONE, LOWER = 'lower after a divergence alone', 'lower after a divergence'
OTHER = {'event': CHANGED, 'changes': {'a': [1, 2]}}
LOWERED = {'event': CHANGED, 'changes': {RATE: [0.1, 0.01]}}


@pytest.mark.parametrize(
    ('field', 'old', 'new', 'events', 'instead'),
    [
        ('seed', 0, 1, [], ''),
        ('log_every_other', 0, 1, [], ''),
        ('log_every', 10, 1, [], None),
        ('keep_checkpoints', 2, 1, [], None),
        ('mesh.data', 1, 8, [], None),
        (RATE, 0.1, 0.01, [RESUMED], ALONE),
        (RATE, 0.1, 0.01, [DIVERGED], None),
        (RATE, 0.1, 0.01, [DIVERGED, RESUMED], None),
        (RATE, 0.1, 0.1, [DIVERGED], LOWER),
        (RATE, 0.1, 0.2, [DIVERGED], LOWER),
        (RATE, 0.1, None, [DIVERGED], LOWER),
        # Once for each divergence; another change is not it.
        (
            RATE,
            0.01,
            0.001,
            [DIVERGED, LOWERED],
            ALONE,
        ),
        (
            RATE,
            0.01,
            0.1,
            [DIVERGED, LOWERED],
            ALONE,
        ),
        (RATE, 0.01, 0.001, [DIVERGED, LOWERED, DIVERGED], None),
        (
            RATE,
            0.1,
            0.01,
            [DIVERGED, OTHER],
            None,
        ),
    ],
)
def test_what_may_change(field, old, new, events, instead):
    events = [{'event': e} if isinstance(e, str) else e for e in events]
    assert history.refusal(field, old, new, events) == instead
