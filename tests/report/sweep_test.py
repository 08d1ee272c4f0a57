"""The page of a sweep: what is done, what is best, what is not there yet."""

import base64
import io

from matplotlib import pyplot as plt

from moe.report import sweep
from tests.report.page_test import Parsed

METRIC = 'eval/loss'


def trial(router, seed, step, value):
    return {
        'values': {'router': router, 'seed': seed},
        'step': step,
        'steps': 10,
        'done': step == 10,
        'metrics': {METRIC: value},
    }


# Four trials: one has only begun, one has not.
FOUND = {
    'name': 'routers <1>',
    'metrics': [METRIC],
    'better': 'lower',
    'fields': {'model.moe.router.name': 'router', 'seed': 'seed'},
    'seed': 'seed',
    'trials': {
        'a0': trial('a', 0, 10, 2.0),
        'a1': trial('a', 1, 10, 4.0),
        'b0': trial('b', 0, 5, 1.0),
        'b1': trial('b', 1, 0, None),
    },
    'groups': [
        {
            'values': {'router': 'a'},
            'trials': ['a0', 'a1'],
            'metrics': {METRIC: {'n': 2, 'mean': 3.0, 'std': 2**0.5}},
        }
    ],
    'best': 'a0',
    'best_group': 0,
}
LOGGED = {
    name: [{'step': s, METRIC: 2.0, 'train/loss': 3.0} for s in (1, 2)]
    for name in ('a0', 'a1', 'b0')
}


def test_page():
    parsed = Parsed(sweep.page(FOUND, LOGGED))
    assert 'routers <1>' in parsed.text
    assert '2 of 4 trials are done' in parsed.text
    assert 'eval/loss: lower is better' in parsed.text
    assert parsed.rows == [
        ['trials', 'n', METRIC, f'{METRIC} std'],
        ['router=a (best)', '2', '3', '1.414'],
        ['trial', 'router', 'seed', 'step', METRIC],
        ['a0 (best)', 'a', '0', '10/10', '2'],
        ['a1', 'a', '1', '10/10', '4'],
        ['b0', 'b', '0', '5/10', '1'],
        ['b1', 'b', '1', '0/10', '-'],
    ]
    # Against the router, not the seed; and over the steps, as the loss is.
    assert len(parsed.images) == 3
    assert not {'script', 'link', 'iframe'} & {tag for tag, _ in parsed.tags}


def test_nothing_is_done():
    trials = {
        name: trial | {'done': False, 'metrics': {METRIC: None}}
        for name, trial in FOUND['trials'].items()
    }
    empty = {'groups': [], 'best': None, 'best_group': None, 'trials': trials}
    parsed = Parsed(sweep.page(FOUND | empty, {}))
    assert '0 of 4 trials are done' in parsed.text
    assert parsed.images == []


def test_against_leaves_out_what_is_not_done(monkeypatch):
    # Of b there is no finished trial.
    drawn = []
    monkeypatch.setattr(
        sweep.plots, 'against', lambda points, *labels: drawn.append(points)
    )
    sweep.against(FOUND, 'router', METRIC)
    assert drawn == [[('a', 2.0, ''), ('a', 4.0, '')]]


def test_picture_is_one():
    image = sweep.against(FOUND, 'router', METRIC)
    assert plt.imread(io.BytesIO(image), format='png').shape[0] > 100
    assert base64.b64encode(image).decode() in sweep.page(FOUND, LOGGED)
