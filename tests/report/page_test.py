"""The page of a run: complete, self-contained, honest about what is absent."""

import base64
import html.parser
import io
import re

import pytest
from matplotlib import pyplot as plt

from moe import report
from moe.config import ConfigError
from moe.report.__main__ import main
from tests.report import runs


class Parsed(html.parser.HTMLParser):
    """The page's pieces, and an error for a tag that is never closed."""

    VOID = {'meta', 'img', 'br'}

    def __init__(self, text):
        super().__init__()
        self.tags, self.images, self.rows, self.open = [], [], [], []
        self.text = ''
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == 'img':
            self.images.append(dict(attrs)['src'])
        if tag == 'tr':
            self.rows.append([])
        if tag in ('td', 'th'):
            self.rows[-1].append('')
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ('td', 'th'):
            self.rows[-1][-1] += data


def page(folder, *others):
    path = report.write(folder, others)
    assert path == folder / 'report' / 'index.html'
    text = path.read_text()
    return text, Parsed(text)


def test_table(tmp_path):
    _, parsed = page(runs.write(tmp_path / 'one'))
    head, row = parsed.rows
    found = dict(zip(head, row, strict=True))
    assert found == {
        'run': 'one',
        'steps': '4',
        'validation bits/byte': '1.5000',
        'validation loss': '1.5000',
        'train loss': '2.0000',
        'speed': '4,938 tokens/s',
        'largest load / uniform': '2.25',  # of the last layer, at the end
    }


def test_pictures_are_in_the_page(tmp_path):
    # Losses; two auxiliary losses; the loads; entropy, drops, violation.
    _, parsed = page(runs.write(tmp_path / 'one'))
    assert len(parsed.images) == 7
    for source in parsed.images:
        kind, data = source.split(',')
        assert kind == 'data:image/png;base64'
        image = plt.imread(io.BytesIO(base64.b64decode(data)), format='png')
        assert image.shape[0] > 100
        assert image.shape[1] > 300


def test_page_needs_nothing_else(tmp_path):
    text, parsed = page(runs.write(tmp_path / 'one'))
    text = re.sub('data:image/png;base64,[^"]*', '', text)
    assert 'http' not in text
    assert 'url(' not in text
    assert not {'script', 'link', 'iframe', 'object'} & {
        tag for tag, _ in parsed.tags
    }
    for _, attributes in parsed.tags:
        assert not {'href', 'onload', 'onclick'} & set(attributes)


def test_texts_are_shown_verbatim(tmp_path):
    # The sample and the config are text, not markup.
    _, parsed = page(runs.write(tmp_path / 'one'))
    assert 'def <b>&' in parsed.text
    assert '"note": "x < y"' in parsed.text
    assert 'b' not in {tag for tag, _ in parsed.tags}


def test_every_byte_is_coloured_by_its_expert(tmp_path):
    # Bytes `a`, `<`, a line feed, and one without a glyph, in two layers.
    text, _ = page(runs.write(tmp_path / 'one'))
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


def test_comparison(tmp_path):
    # Folders of the same name: their parents tell them apart.
    one = runs.write(tmp_path / 'a' / 'run')
    changed = [{**m, 'eval/loss': 9.25} for m in runs.lines()]
    two = runs.write(tmp_path / 'b' / 'run', changed)
    text, parsed = page(one, two)
    head, *rows = parsed.rows
    assert [row[0] for row in rows] == ['a/run', 'b/run']
    loss = head.index('validation loss')
    assert [row[loss] for row in rows] == ['1.5000', '9.2500']
    assert '<h2>a/run</h2>' in text
    assert '<h2>b/run</h2>' in text
    # Three comparisons, and four pictures of each.
    assert len(parsed.images) == 3 + 2 * 4
    assert not (two / 'report').exists()


def test_comparison_with_a_dense_run(tmp_path):
    dense = [
        {k: v for k, v in m.items() if not re.match('moe/|train/(lo|ro).*_', k)}
        for m in runs.lines()
    ]
    one = runs.write(tmp_path / 'mixture')
    two = runs.write(tmp_path / 'dense', dense, routing=False)
    _, parsed = page(two, one)
    head, *rows = parsed.rows
    load = head.index('largest load / uniform')
    assert [row[load] for row in rows] == ['-', '2.25']
    assert len(parsed.images) == 3 + 4
    _, alone = page(two)
    assert len(alone.images) == 1


def test_written_again(tmp_path):
    folder = runs.write(tmp_path / 'one')
    first, _ = page(folder)
    second, _ = page(folder)
    assert first == second


def test_run_without_an_evaluation_yet(tmp_path):
    # Stopped before its first pass over the validation text.
    folder = runs.write(
        tmp_path / 'young', list(runs.lines())[:1], sample='', routing=False
    )
    _, parsed = page(folder)
    found = dict(zip(*parsed.rows, strict=True))
    assert found['validation loss'] == '-'
    assert 'validation bits/byte' not in found
    assert found['train loss'] == '5.0000'
    assert isinstance(report.summary(folder), str)


def test_summary(tmp_path):
    text = report.summary(runs.write(tmp_path / 'one', sample='one\ntwo'))
    assert text.splitlines() == [
        'validation: 1.5000 bits/byte, loss 1.5000',
        'sample:',
        '    one',
        '    two',
    ]


@pytest.mark.parametrize('missing', ['config.json', 'metrics.jsonl', None])
def test_no_run(tmp_path, capsys, missing):
    # A folder without one of the files, or none at all.
    folder = tmp_path / 'empty'
    if missing:
        runs.write(folder)
        (folder / missing).unlink()
    good = runs.write(tmp_path / 'good')
    for folders in ([folder], [good, folder]):
        with pytest.raises(ConfigError) as caught:
            report.write(folders[0], folders[1:])
        assert caught.value.value == str(folder)
        assert main(['report', *map(str, folders)]) == 2
        out, err = capsys.readouterr()
        assert out == ''
        (line,) = err.splitlines()
        assert line.startswith('moe.report: workdir = ')
        assert (missing or 'config.json') in line
    assert not (good / 'report').exists()


def test_run_without_a_logged_step(tmp_path, capsys):
    # Stopped before its first line of metrics.
    folder = runs.write(tmp_path / 'empty', metrics=[])
    assert main(['report', str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('moe.report: workdir = ')


def test_command(tmp_path, capsys):
    folder = runs.write(tmp_path / 'one')
    assert main(['report', str(folder)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == f'report: {folder}/report/index.html'
    assert out.startswith('validation: 1.5000 bits/byte')
    assert err == ''
    assert main(['report']) == 2
    assert capsys.readouterr().err.startswith('usage: python -m moe.report')
