"""The report section of a vision transformer: the confusion matrix."""

from moe.paths import read_json
from moe.report.markup import paragraph, section, shade_table
from moe.report.page import Sections
from moe.report.run import Run


def details(run: Run) -> list[str]:
    """Returns the confusion matrix of the validation images, HTML."""
    path = run.workdir / 'confusion.json'
    if not path.exists():
        return []
    counts = read_json(path, list)
    classes = [str(c) for c in range(len(counts))]
    table = shade_table(
        dict(zip(classes, counts, strict=True)),
        classes,
        lambda row, column: 120 * (row == column),
    )
    words = 'Rows: true class; columns: predicted class.'
    return [section('Confusion matrix', [paragraph(words), table])]


SECTIONS = Sections(details=details)
