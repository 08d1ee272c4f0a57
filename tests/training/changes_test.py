"""What may change in a run's folder, and what is told instead."""

import pathlib

import pytest

from moe.training import changes
from moe.training.changes import Past
from moe.training.history import CHANGED, DIVERGED, RESUMED
from moe.training.restore import Entry
from tests import tiny

RATE = 'optimizer.learning_rate'
ALONE = 'it may be lower after a divergence alone'
LOWER = 'it may be lower after a divergence'
OTHER = {'event': CHANGED, 'changes': {'a': [1, 2]}}
LOWERED = {'event': CHANGED, 'changes': {RATE: [0.1, 0.01]}}


@pytest.mark.parametrize(
    ('field', 'old', 'new', 'events', 'instead'),
    [
        ('seed', 0, 1, [], ''),
        ('log_every_other', 0, 1, [], ''),
        ('log_every', 10, 1, [], None),
        ('keep_checkpoints', 2, 1, [], None),
        ('sample_length', 2, 1, [], None),
        ('model.remat', 'none', 'full', [], None),
        ('model.moe.dispatcher', 'grouped', None, [], None),
        ('model.remat_other', 'none', 'full', [], ''),
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
    past = Past(pathlib.Path(), events, None, None)
    assert changes.remedy(field, old, new, past) == instead


# Warm-up to step 2, and then: up to 6 on a cosine, or constant.
COSINE = {'steps': 6, 'optimizer.schedule': {'name': 'cosine'}}
COSINE['optimizer.schedule']['warmup_steps'] = 2
CONSTANT = {'optimizer.schedule': {'name': 'constant', 'warmup_steps': 2}}


@pytest.mark.parametrize(
    ('taken', 'earlier', 'now', 'told'),
    [
        # The third rate is the peak on both, the fourth is not.
        (4, COSINE, COSINE | {'steps': 8}, 'rate of step 4 of the 4 taken'),
        (3, COSINE, COSINE | {'steps': 8}, None),
        (3, COSINE, CONSTANT, None),
        (4, COSINE, CONSTANT, 'rate of step 4 of the 4 taken'),
        (4, CONSTANT | {'steps': 6}, CONSTANT | {'steps': 9}, None),
        (4, CONSTANT | {'steps': 6}, CONSTANT | {'steps': 4}, None),
        (
            4,
            CONSTANT | {'steps': 6},
            CONSTANT | {'steps': 3},
            'it may be 4 or more, the steps taken',
        ),
        (0, COSINE, CONSTANT | {'steps': 4}, None),
        # The peak is another field.
        (4, CONSTANT, CONSTANT | {'optimizer.learning_rate': 1e-3}, None),
    ],
)
def test_steps_taken_would_have_been_the_same(
    monkeypatch, taken, earlier, now, told
):
    entries = [Entry(pathlib.Path(str(step)), step) for step in (taken, 1)]
    found = entries if taken else []
    monkeypatch.setattr(changes, 'list_checkpoints', lambda workdir: found)
    configs = tiny.parsed(earlier), tiny.parsed(now)
    past = Past(pathlib.Path(), [], *configs)
    for field in ('steps', 'optimizer.schedule.name'):
        instead = changes.remedy(field, 1, 2, past)
        assert instead is None if told is None else told in instead
