"""The parts of a page that a vision transformer adds."""

from moe.report import Run
from moe.workloads.vision import report
from tests.report import runs
from tests.report.page_test import Parsed


def test_confusion_matrix(tmp_path):
    folder = runs.write(tmp_path / 'one')
    assert report.details(Run(folder)) == []
    (folder / 'confusion.json').write_text('[[7, 1], [0, 8]]')
    (part,) = report.details(Run(folder))
    parsed = Parsed(part)
    assert parsed.text.startswith('Confusion matrix')
    assert parsed.rows == [['', '0', '1'], ['0', '7', '1'], ['1', '', '8']]
