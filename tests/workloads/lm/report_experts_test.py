"""What the experts read, on the page of a language model."""

import re

import numpy as np
import pytest

from moe.report import Run
from moe.workloads.lm import report, report_experts
from tests.report import runs
from tests.report.page_test import Parsed


def test_every_token_is_coloured_by_its_experts(tmp_path):
    # Bytes `a`, `<`, a line feed, and one without a glyph, in two layers.
    run = Run(runs.write(tmp_path / 'one'))
    text = ''.join(report.details(run))
    maps = re.findall(
        '<summary>Layer ([0-9]+)</summary><pre class="map">(.*?)</pre>',
        text,
        re.DOTALL,
    )
    assert [layer for layer, _ in maps] == ['1', '3']
    tokens = [
        re.findall('<i class="(.*?)" title="(.*?)">(.*?)</i>', m, re.DOTALL)
        for _, m in maps
    ]
    # First and second choice, all with their weights, the token.
    assert tokens[0] == [
        ('e0 u1', '0: 0.75, 1: 0.25', 'a'),
        ('e1 u0', '1: 0.50, 0: 0.50', '&lt;'),
        ('e1 u0', '1: 0.88, 0: 0.12', '\n'),
        ('e0 u1', '0: 1.00, 1: 0.00', '&middot;'),
    ]
    assert tokens[1][3] == ('e1', '1: 1.00', '&middot;')
    sets = re.findall('<em>(.*?)</em>', maps[0][1])
    assert sets == ['mail', 'a&lt;b']
    for kind in ('e0', 'e1', 'u0', 'u1'):
        assert f'.{kind}{{' in text


def test_run_of_before_has_first_choices_alone(tmp_path):
    folder = runs.write(tmp_path / 'one')
    first = np.array([[0, 1], [1, 1]])
    np.savez(folder / 'routing.npz', texts=np.array(['a', 'b']), first=first)
    text = ''.join(report.details(Run(folder)))
    found = re.findall('<i class="(e[01])">([ab])</i>', text)
    assert found == [('e0', 'a'), ('e1', 'b'), ('e1', 'a'), ('e1', 'b')]
    assert '<img' not in text
    assert 'What each expert reads' not in text


def test_tokens_of_each_expert(tmp_path):
    parsed = Parsed(''.join(report.details(Run(runs.write(tmp_path / 'one')))))
    rows = [row for row in parsed.rows if len(row) == 2]
    assert rows == [
        ['expert', 'tokens'],
        ['0', 'x 50% | \u2423y 25%'],
        ['1', '\u2423y 100%'],
        ['expert', 'tokens'],
        ['0', ''],
        ['1', 'x 75%'],
    ]
    assert '48 validation tokens' in parsed.text


def test_pictures_of_experts(tmp_path, monkeypatch):
    drawn = {}

    def fake(panels, label, colours, **options):
        drawn[label] = panels, options

    monkeypatch.setattr(report_experts.plots, 'matrices', fake)
    report.details(Run(runs.write(tmp_path / 'one')))
    # By layer, a row for each set.
    panels, options = drawn['load / uniform share']
    assert options['rows'] == ['mail', 'a<b']
    np.testing.assert_array_equal(panels['Layer 1'], [[0.5, 1.5], [1.5, 0.5]])
    np.testing.assert_array_equal(panels['Layer 3'], np.ones((2, 2)))
    # 16 of the 32 tokens of expert 0, and of the 24 of expert 1.
    panels, _ = drawn['share']
    nothing = np.nan
    expected = [[nothing, 0.5], [16 / 24, nothing]]
    np.testing.assert_allclose(panels['Layer 1'], expected)


@pytest.mark.parametrize('count', [3, 9])
def test_colours_of_experts_that_no_load_counts(tmp_path, count):
    # A run may name more experts than the layers log the loads of.
    folder = runs.write(tmp_path / 'one')
    first = np.array([[0, 1, count - 1, 0], [1, 1, 1, 1]])
    texts = np.array(4 * ['a'])
    np.savez(folder / 'routing.npz', texts=texts, first=first)
    text = ''.join(report.details(Run(folder)))
    assert len(set(re.findall('&nbsp;([0-9]+)&nbsp;', text))) == count
