"""The parts of a page that a language model adds."""

import re

import numpy as np
import pytest

from moe.report import Run
from moe.workloads.lm import report
from tests.report import runs
from tests.report.page_test import Parsed


def test_every_token_is_coloured_by_its_expert(tmp_path):
    # Bytes `a`, `<`, a line feed, and one without a glyph, in two layers.
    run = Run(runs.write(tmp_path / 'one'))
    text = ''.join(report.details(run))
    maps = re.findall(
        '<p>Layer ([0-9]+)</p><pre class="map">(.*?)</pre>', text, re.DOTALL
    )
    assert [layer for layer, _ in maps] == ['1', '3']
    spans = [
        re.findall('background:(.*?)">(.*?)</span>', m, re.DOTALL)
        for _, m in maps
    ]
    for found in spans:
        shown = [character for _, character in found]
        assert shown == ['a', '&lt;', '\n', '&middot;']
    zero, one = spans[0][0][0], spans[0][1][0]
    assert zero != one
    assert [c for c, _ in spans[0]] == [zero, one, one, zero]
    assert [c for c, _ in spans[1]] == [one] * 4


def test_sample_is_shown_verbatim(tmp_path):
    # It is text, not markup.
    run = Run(runs.write(tmp_path / 'one'))
    parsed = Parsed(''.join(report.details(run)))
    assert 'def <b>&' in parsed.text
    assert 'b' not in {tag for tag, _ in parsed.tags}
    assert report.summary(run) == ['sample:', '    def <b>&']


@pytest.mark.parametrize('count', [3, 9])
def test_colours_of_experts_that_no_load_counts(tmp_path, count):
    # A run may name more experts than the layers log the loads of.
    folder = runs.write(tmp_path / 'one')
    first = np.array([[0, 1, count - 1, 0], [1, 1, 1, 1]])
    texts = np.array(4 * ['a'])
    np.savez(folder / 'routing.npz', texts=texts, first=first)
    text = ''.join(report.details(Run(folder)))
    assert len(set(re.findall('&nbsp;([0-9]+)&nbsp;', text))) == count


def test_losses_of_every_set(tmp_path):
    lines = list(runs.lines())
    lines[-1] |= {'eval/mail/loss': 1.25, 'eval/library/loss': 2.5}
    lines[-1]['eval/mail/bits_per_byte'] = 0.75
    run = Run(runs.write(tmp_path / 'one', lines))
    assert Parsed(report.details(run)[0]).rows == [
        ['set', 'loss', 'bits/byte'],
        ['mail', '1.2500', '0.7500'],
        ['library', '2.5000', '-'],
    ]


def test_run_without_sample_or_routing(tmp_path):
    folder = runs.write(tmp_path / 'one', sample='', routing=False)
    assert ''.join(report.details(Run(folder))) == ''
    assert report.summary(Run(folder)) == []
