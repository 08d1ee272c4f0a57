"""Which checkpoints a metric keeps, and when it ends a run."""

import json
import pathlib
from typing import NamedTuple

import pytest

from moe.training.watch import BestConfig, Kept, Watch
from tests.training.evaluation_test import Sums

NOWHERE = pathlib.Path('/no/run')
VALUES = {10: 3.0, 20: 1.0, 30: 2.0, 40: float('nan'), 50: 1.0, 60: 1.5}


def watched(values=VALUES, **options):
    metric = f'eval/{options.get("metric", "loss")}'
    watch = Watch(BestConfig(**options), Sums(), NOWHERE, 0)
    for step, value in values.items():
        assert watch.note(step, {'train/loss': 0.0}) is None
        assert watch.note(step, {metric: value}) is None
    return watch


class Info(NamedTuple):
    step: int


def test_the_best_are_kept_beside_the_newest():
    watch = watched(keep=2)
    assert watch.best() == [20, 50]
    infos = [Info(step) for step in (10, 20, 25, 30, 40, 50, 55, 60)]
    kept = Kept(1, watch).should_preserve(infos, context=None)
    assert [i.step for i, k in zip(infos, kept, strict=True) if k] == [
        20,
        50,
        60,
    ]


def test_an_evaluation_that_is_the_best_so_far():
    improved = [
        step
        for i, step in enumerate(VALUES, start=1)
        if watched(dict(list(VALUES.items())[:i]), keep=1).improved(step)
    ]
    assert improved == [10, 20]
    assert not watched(keep=0).improved(20)


def test_higher_may_be_better():
    watch = watched(metric='top_k_accuracy', keep=3)
    assert watch.best() == [10, 30, 60]


@pytest.mark.parametrize(
    ('patience', 'until', 'ended'),
    [
        # Nothing is better than step 20 from then on.
        (1, 20, False),
        (1, 30, True),
        (2, 30, False),
        (2, 40, True),
        (3, 40, False),
        (3, 50, True),
        (9, 60, False),
        (0, 60, False),
    ],
)
def test_patience(patience, until, ended):
    values = {step: v for step, v in VALUES.items() if step <= until}
    told = watched(values, patience=patience).ended()
    assert (told is not None) is ended
    if ended:
        assert told.startswith('eval/loss of step 20 has not become better')


def test_evaluations_of_before(tmp_path):
    lines = [{'step': s, 'eval/loss': v} for s, v in VALUES.items()]
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (tmp_path / 'metrics.jsonl').write_text(text)
    watch = Watch(BestConfig(keep=3), Sums(), tmp_path, 30)
    assert watch.best() == [20, 30, 10]


def test_a_metric_that_there_is_not():
    watch = Watch(BestConfig('los', keep=1), Sums(), NOWHERE, 0)
    told = watch.note(1, {'eval/loss': 1.0, 'eval/moe/layer_0/load': [1.0]})
    assert told == ('config.best.metric: no evaluation has los (there: loss)')
    assert Watch(BestConfig('los'), Sums(), NOWHERE, 0).note(1, {}) is None
