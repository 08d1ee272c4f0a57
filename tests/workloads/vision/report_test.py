"""The parts of a page that a vision transformer adds."""

import json

import numpy as np
import pytest

from moe.config import ConfigError
from moe.report import Run
from moe.workloads.vision import baselines, report
from moe.workloads.vision.confusion import Confusion
from tests.report import runs
from tests.report.page_test import Parsed


def test_baselines_stand_in_the_summary_and_on_the_page(tmp_path):
    folder = runs.write(tmp_path / 'one')
    assert report.summary(Run(folder)) == []
    baselines.write({'1-nearest-neighbour': 0.75, 'other': 0.5}, folder)
    line = 'baselines on the same images: 1-nearest-neighbour 0.7500, '
    assert report.summary(Run(folder)) == [line + 'other 0.5000']
    (part,) = report.details(Run(folder))
    assert Parsed(part).rows == [
        ['baseline', 'accuracy'],
        ['1-nearest-neighbour', '0.7500'],
        ['other', '0.5000'],
    ]


def test_few_classes_have_a_matrix(tmp_path):
    folder = runs.write(tmp_path / 'one')
    assert report.details(Run(folder)) == []
    (folder / 'confusion.json').write_text('[[7, 1], [0, 8]]')
    (part,) = report.details(Run(folder))
    parsed = Parsed(part)
    assert parsed.text.startswith('Accuracy by class')
    # 7 of 8, and 8 of 8.
    assert '0.938 in the mean over 2 classes, least 0.875' in parsed.text
    assert parsed.rows == [
        ['class', 'images', 'accuracy', 'most often taken for'],
        ['0', '8', '0.875', '1 (1 times)'],
        ['1', '8', '1.000', '-'],
        ['', '0', '1'],
        ['0', '7', '1'],
        ['1', '', '8'],
    ]


def test_classes_have_their_names(tmp_path):
    folder = runs.write(tmp_path / 'one')
    (folder / 'confusion.json').write_text('[[7, 1], [0, 8]]')
    ants = {'mean': [0.5], 'deviation': [1], 'center': 1, 'classes': ['ant']}
    (folder / 'preprocessing.json').write_text(json.dumps(ants))
    (part,) = report.details(Run(folder))
    parsed = Parsed(part)
    assert 'least 0.875 (class ant), most 1.000 (class 1)' in parsed.text
    heads = [row[0] for row in parsed.rows]
    assert heads == ['class', 'ant', '1', '', 'ant', '1']


def test_accuracy_against_capacity(tmp_path):
    # Of the finished run, and of an evaluation with another config.
    folder = runs.write(tmp_path / 'one')
    row = lambda factor, prioritized, value, dropped: {
        'factor': factor,
        'prioritized': prioritized,
        'value': value,
        'dropped': dropped,
    }
    rows = [row(None, False, 0.9, 0.0)]
    rows += [row(0.25, False, 0.5, 0.75), row(0.25, True, 0.75, 0.5)]
    found = {'metric': 'accuracy', 'rows': rows}
    (folder / 'capacity.json').write_text(json.dumps(found))
    (folder / 'evaluations').mkdir()
    found |= {'step': 7, 'changes': {'model.moe.num_groups': '1'}}
    path = folder / 'evaluations' / 'capacity-step-7.json'
    path.write_text(json.dumps(found))
    (part,) = report.details(Run(folder))
    parsed = Parsed(part)
    assert parsed.text.startswith('Accuracy against capacity')
    assert 'factor. Of step 7, model.moe.num_groups = 1.' in parsed.text
    assert len(parsed.images) == 2
    orders = ['tokens in order', 'batch priority']
    table = [
        ['capacity factor', *orders, *(f'dropped, {name}' for name in orders)],
        ['0.25', '0.5000', '0.7500', '75.0%', '50.0%'],
        ['no limit', '0.9000', '-', '-', '-'],
    ]
    assert parsed.rows == 2 * table
    path.write_text('{"rows": [{}]}')
    with pytest.raises(ConfigError, match='must be whole'):
        report.details(Run(folder))


def test_few_shot_accuracy(tmp_path):
    folder = runs.write(tmp_path / 'one')
    row = {'shots': 5, 'mean': 0.5, 'deviation': 0.125}
    one = {'shots': 10, 'mean': 0.75, 'deviation': None}
    found = {'step': 3, 'draws': 2, 'rows': [row, one], 'changes': {'a.b': '1'}}
    (folder / 'evaluations').mkdir()
    path = folder / 'evaluations' / 'few-shot-step-3.json'
    path.write_text(json.dumps(found))
    (part,) = report.details(Run(folder))
    assert Parsed(part).rows == [
        ['images a class', 'accuracy', 'deviation', 'draws'],
        ['5 of step 3, a.b = 1', '0.5000', '0.1250', '2'],
        ['10 of step 3, a.b = 1', '0.7500', '-', '2'],
    ]


def test_many_classes_have_their_extremes(tmp_path):
    # Class c of 1,000 has 1,000 images, of which c are right; the others are
    # taken for the next class.
    folder = runs.write(tmp_path / 'one')
    every = np.arange(1000)
    right = np.stack([every, every, every], axis=1)[1:]
    wrong = np.stack([every, (every + 1) % 1000, 1000 - every], axis=1)
    counts = np.concatenate([right, wrong])
    Confusion(1000, counts).write(folder / 'confusion.json')
    (part,) = report.details(Run(folder))
    parsed = Parsed(part)
    assert len(part) < 20_000
    words = 'least 0.000 (class 0), most 0.999 (class 999)'
    assert f'in the mean over 1000 classes, {words}' in parsed.text
    heads = [i for i, row in enumerate(parsed.rows) if 'class' in row[0]]
    lowest, highest, pairs = np.split(np.array(parsed.rows, object), heads)[1:]
    assert [row[0] for row in lowest[1:]] == [str(c) for c in range(10)]
    assert lowest[3] == ['2', '1,000', '0.002', '3 (998 times)']
    assert highest[1] == ['999', '1,000', '0.999', '0 (1 times)']
    assert highest[-1][0] == '990'
    assert pairs[1] == ['0 taken for 1', '1,000', '1.000']
    assert len(pairs) == 21
