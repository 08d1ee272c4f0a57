"""The parts of a page that a language model adds."""

from moe.report import Run
from moe.workloads.lm import report
from tests.report import runs
from tests.report.page_test import Parsed


def test_sample_is_shown_verbatim(tmp_path):
    # It is text, not markup.
    run = Run(runs.write(tmp_path / 'one'))
    parsed = Parsed(''.join(report.details(run)))
    assert 'def <b>&' in parsed.text
    assert 'b' not in {tag for tag, _ in parsed.tags}
    assert report.summary(run) == ['sample:', '    def <b>&']


def test_losses_of_every_set(tmp_path):
    lines = list(runs.lines())
    lines[-1] |= {'eval/mail/loss': 1.25, 'eval/library/loss': 2.5}
    lines[-1]['eval/mail/bits_per_byte'] = 0.75
    run = Run(runs.write(tmp_path / 'one', lines))
    parsed = Parsed(report.details(run)[0])
    assert parsed.rows == [
        ['set', 'loss', 'bits/byte'],
        ['mail', '1.2500', '0.7500'],
        ['library', '2.5000', '-'],
    ]
    assert len(parsed.images) == 2  # the curves of both metrics


def test_run_without_sample_or_routing(tmp_path):
    folder = runs.write(tmp_path / 'one', sample='', routing=False)
    assert ''.join(report.details(Run(folder))) == ''
    assert report.summary(Run(folder)) == []
