"""The parts of a page that a run of several tasks adds."""

import re

from moe.workloads.multitask import report as tasks
from tests.report import runs

METRICS = [
    {
        'step': step,
        'train/loss': 2.0,
        'train/loss/income': 0.5 / step,
        'train/loss/married': 1.5,
        'train/weight/income': 1.25,
        'eval/loss': 1.0,
        'eval/income/auc': 0.5 + step / 10,
        'eval/income/calibration': 1.0,
        'eval/married/auc': 0.9,
        'moe/income/gate': [0.25, 0.75],
        'moe/income/entropy': 0.6,
        'moe/married/gate': [1.0, 0.0],
        'moe/married/entropy': 0.1,
        'moe/shared/gate': [0.2, 0.3, 0.5],
        'moe/shared/entropy': 0.4,
    }
    for step in (1, 2)
]
TEST = {'loss': 0.7, 'income/auc': 0.65, 'married/auc': 0.8}


def test_run_of_one_task_has_none():
    assert tasks.details(list(runs.lines()), {}) == []
    assert tasks.summary(list(runs.lines()), {}) == []


def test_summary_has_the_newest_results():
    lines = [
        '  income: 0.7000 auc, 1.0000 calibration',
        '  married: 0.9000 auc',
    ]
    assert tasks.summary(METRICS, {}) == lines
    lines += ['test:', '  income: 0.6500 auc', '  married: 0.8000 auc']
    assert tasks.summary(METRICS, TEST) == lines


def test_tables():
    results, test, *gates = re.findall(
        '<table>.*?</table>', ''.join(tasks.details(METRICS, TEST))
    )
    text = lambda html: re.sub('<[^>]+>', ' ', html).split()
    assert text(results) == [
        *('task', 'auc', 'calibration'),
        *('income', '0.7000', '1.0000'),
        *('married', '0.9000', '-'),
    ]
    desired = ['task', 'auc', 'income', '0.6500', 'married', '0.8000']
    assert text(test) == desired
    # Gates over as many experts share a table.
    assert [text(g) for g in gates] == [
        ['0', '1', 'income', '0.25', '0.75', 'married', '1'],
        ['0', '1', '2', 'shared', '0.2', '0.3', '0.5'],
    ]


def test_pictures():
    # Two metrics, the losses, the gates over time, their entropy.
    parts = tasks.details(METRICS, {})
    captions = re.findall('<figcaption>(.*?)</figcaption>', ''.join(parts))
    assert captions == [
        'Validation auc by task.',
        'Validation calibration by task.',
        'Training loss by task, unweighted.',
        'Weight of each task, where it moves itself.',
        'Mean gate of every expert over time, by gate.',
        'Entropy of the gates, mean over examples.',
    ]


def test_run_without_gates_or_results_yet():
    young = [{'step': 1, 'train/loss': 2.0, 'moe/income/gate': [0.5, 0.5]}]
    captions = re.findall('<figcaption>', ''.join(tasks.details(young, {})))
    assert len(captions) == 1
