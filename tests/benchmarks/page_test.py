"""docs/benchmarks.md and README's figures are what the lines say."""

import json

import pytest

from benchmarks import page, record, sections
from benchmarks.layer import DROPLESS, MEMORY_LIMIT
from benchmarks.problem import Setting
from benchmarks.step import DENSE, MIXTURE
from benchmarks.timing import Case, Rows, Timing

AROUND = {
    'machine': {
        'processor': 'A processor',
        'cores': 2,
        'platform': 'cpu',
        'device': 'cpu',
        'devices': 1,
    },
    'versions': {'python': '3.11.7', 'jax': '0.10.2'},
    'command': 'python -m benchmarks layer --rounds=5',
    'load_average': 0.25,
    'time': '2026-01-02T03:04:05+00:00',
}
LAYER = Setting(tokens=4096, width=512, hidden=2048, num_experts=8)


def line(suite, case, seconds=(1.0,), rows=None, **facts):
    """A line as a suite writes it."""
    made = record.measured(
        Case(case, lambda: print, rows=rows), Timing(seconds), **facts
    )
    return {'suite': suite, **made, **AROUND}


def layer_line(case, seconds, ratio, experts=8, load='balanced'):
    facts = {**LAYER.facts(), 'num_experts': experts, 'load': load}
    return line(
        'layer',
        case,
        (seconds,),
        Rows(8192),
        **facts,
        dense_over_time=ratio,
        limit_over_time=ratio,
    )


def test_the_page_is_what_the_lines_say():
    text = page.text(record.read(record.RESULTS))
    assert page.PAGE.read_text() == text, 'python -m benchmarks docs'


def test_readme_agrees():
    readme = page.README.read_text()
    records = record.read(record.RESULTS)
    assert page.with_figures(readme, records) == readme, (
        'python -m benchmarks docs'
    )


def test_committed_lines_are_whole():
    for found in record.read(record.RESULTS):
        assert 'failed' not in found, found
        assert set(found) >= {'suite', 'case', *AROUND}
        assert found['suite'] in sections.SECTIONS


@pytest.mark.parametrize(
    ('seconds', 'said'),
    [
        (0.9, 'It is ahead: it takes 0.90 times the time of the fastest other'),
        (
            1.1,
            'It is behind: it takes 1.10 times the time of the fastest other',
        ),
    ],
)
def test_verdict(seconds, said):
    lines = [
        layer_line(DROPLESS, seconds, 0.8),
        layer_line('PyTorch loop over experts', 1.0, 0.7),
        layer_line('slow', 3.0, 0.2),
        layer_line(DROPLESS, 1.5 * seconds, 0.5, load='zipf'),
    ]
    text = ' '.join('\n'.join(sections.section('layer', lines)).split())
    assert f'{said} dropless case, PyTorch loop over experts.' in text
    assert 'runs at 0.80 of the dense limit' in text
    assert 'it takes 1.50 times with zipf' in text


def test_a_row_of_the_table():
    found = line(
        'layer',
        MEMORY_LIMIT,
        (0.5, 0.1, 0.4, 0.2, 0.3),
        Rows(1000, 24, 3),
        **LAYER.facts(),
        dense_over_time=0.456,
        limit_over_time=0.611,
    )
    (row,) = (
        text
        for text in sections.section('layer', [found])
        if text.startswith(f'| {MEMORY_LIMIT}')
    )
    # The median is 300 ms, the quartiles 200 and 400.
    cells = [cell.strip() for cell in row.strip('|').split('|')]
    assert cells[1] == 'balanced'
    assert cells[2].startswith('300 (200')
    assert cells[2].endswith('400)')
    assert cells[3:] == ['0.46', '0.61', '1,000', '24', '3']


def test_what_is_not_run_says_why():
    reason = Timing(not_run='torch is not installed')
    found = record.measured(Case('peer', lambda: print), reason)
    (row,) = sections.table([found], [('', lambda r: r['case'])])[2:]
    assert row == '| peer |'
    text = '\n'.join(sections.section('step', [found]))
    assert '| peer | not run: torch is not installed |' in text


def test_where_it_was_measured():
    text = page.text([layer_line(DROPLESS, 1.0, 0.8)])
    assert '```sh\npython -m benchmarks layer --rounds=5\n```' in text
    assert 'A processor, 2 cores; python 3.11.7, jax 0.10.2;' in text
    said = ' '.join(text.split())
    assert 'load average 0.2 to 0.2, its own threads included; 2026-' in said
    assert 'Not run yet: `python -m benchmarks gpu`.' in text


def test_figures_of_readme():
    step = line('step', MIXTURE, time_over_dense=1.449, tokens_per_second=1)
    lines = [
        layer_line(DROPLESS, 1.0, 0.951),
        layer_line(DROPLESS, 1.0, 0.812, experts=64),
        step,
        line('step', DENSE, time_over_dense=1.0),
    ]
    said = ' '.join((page.readme_figures(lines) or '').split())
    assert 'A whole step takes 1.4 times as long as the dense one.' in said
    assert 'runs at 0.95 of the speed' in said
    assert 'at E = 8, and at 0.81 at E = 64' in said
    assert page.readme_figures(lines[1:]) is None
    old = 'a\n\nA whole step takes 9\ntimes\n\nb\n'
    changed = page.with_figures(old, lines)
    assert changed == f'a\n\n{page.readme_figures(lines)}\n\nb\n'


def test_lines_are_written_and_read(tmp_path):
    path = tmp_path / 'results' / 'layer.jsonl'
    found = list(record.surrounded('layer', [{'case': 'a'}], 'a command'))
    assert list(record.written(path, found)) == found
    assert record.read(path.parent) == found
    (read,) = map(json.loads, path.read_text().splitlines())
    assert read['machine']['cores'] >= 1
    assert read['versions'].keys() >= {'python', 'jax', 'flax', 'numpy'}
    assert (read['suite'], read['command']) == ('layer', 'a command')
    assert read['load_average'] >= 0
