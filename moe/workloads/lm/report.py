"""Report sections of a language model: sets, experts, and a sample."""

import html

from moe.paths import reading
from moe.report import plots
from moe.report.markup import figure, section, table
from moe.report.page import Sections
from moe.report.results import words
from moe.report.run import Run
from moe.workloads.lm.report_experts import experts


def details(run: Run) -> list[str]:
    """Returns validation sets, what the experts read, and the sample, HTML."""
    text = _sample(run)
    shown = f'<pre>{html.escape(text)}</pre>' if text else ''
    return [validation_sets(run), *experts(run), section('Sample', [shown])]


def summary(run: Run) -> list[str]:
    """Returns the lines of the sample, indented."""
    text = _sample(run)
    lines = ['    ' + line for line in text.splitlines()]
    return ['sample:', *lines] if text else []


def validation_sets(run: Run) -> str:
    """Returns the metrics of each named validation set, as a table and curves.

    Args:
      run: a run of a language model.
    """
    rows: dict[str, dict[str, str]] = {}
    lines: dict[str, dict[str, str]] = {}
    for name, (place, metric) in run.matches('eval/([^/]+)/([^/]+)').items():
        value = run.last(name)
        if place != 'moe' and value is not None:
            rows.setdefault(place, {})[words(metric)] = f'{value:.4f}'
            lines.setdefault(metric, {})[name] = place
    columns = list(dict.fromkeys(m for row in rows.values() for m in row))
    pictures = [
        figure(
            plots.curves({'': run.metrics}, names, words(metric)),
            f'{words(metric).capitalize()} of each validation set.',
        )
        for metric, names in lines.items()
    ]
    parts = [table(rows, columns, 'set'), *pictures]
    return section('Sources and validation sets', parts)


def _sample(run: Run) -> str:
    path = run.workdir / 'sample.txt'
    if not path.exists():
        return ''
    with reading(path):
        return path.read_text(encoding='utf-8')


SECTIONS = Sections(summary, details)
