"""The parts of a page that a vision transformer adds."""

import numpy as np

from moe.report import Run
from moe.workloads.vision import report
from moe.workloads.vision.confusion import Confusion
from tests.report import runs
from tests.report.page_test import Parsed


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
