"""The parts of a page that a run of several tasks adds."""

import json
import re

from moe import report
from moe.report import Run
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


def a_run(folder, metrics=None, test=None):
    """A run with these metrics and results on the test rows."""
    runs.write(folder, metrics or METRICS, sample='', routing=False)
    if test:
        (folder / 'results.json').write_text(json.dumps(test))
    return Run(folder)


def test_run_of_one_task_has_none(tmp_path):
    run = a_run(tmp_path / 'run', list(runs.lines()))
    assert ''.join(tasks.details(run)) == ''
    assert tasks.summary(run) == []


def test_summary_has_the_newest_results(tmp_path):
    lines = [
        '  income: 0.7000 auc, 1.0000 calibration',
        '  married: 0.9000 auc',
    ]
    assert tasks.summary(a_run(tmp_path / 'run')) == lines
    lines += ['test:', '  income: 0.6500 auc', '  married: 0.8000 auc']
    assert tasks.summary(a_run(tmp_path / 'tested', test=TEST)) == lines


def test_tables(tmp_path):
    parts = tasks.details(a_run(tmp_path / 'run', test=TEST))
    results, test, *gates = re.findall('<table.*?</table>', ''.join(parts))
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


def captions(page):
    return re.findall('<figcaption>(.*?)</figcaption>', page)


def test_pictures(tmp_path):
    # The gates over time and their entropy; two metrics, losses, weights.
    run = a_run(tmp_path / 'run')
    sections = lambda run: tasks.SECTIONS
    page = report.write(run.workdir, sections_of=sections).read_text()
    assert captions(page) == [
        'Loss, without the auxiliary terms.',
        'Mean gate of every expert over time.',
        'entropy by gate.',
        'Validation auc by task.',
        'Validation calibration by task.',
        'Training loss by task, unweighted.',
        'Weight of each task, if training changes it.',
    ]


def test_run_without_gates_or_results_yet(tmp_path):
    young = [{'step': 1, 'train/loss': 2.0, 'moe/income/gate': [0.4, 0.6]}]
    run = a_run(tmp_path / 'run', young)
    assert captions(''.join(tasks.details(run))) == []
    page = report.write(run.workdir).read_text()
    assert captions(page)[1:] == ['Mean gate of every expert over time.']
