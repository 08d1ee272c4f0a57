"""The page of a run: complete, self-contained, honest about what is absent."""

import base64
import contextlib
import html.parser
import io
import itertools
import json
import re

import pytest
from matplotlib import pyplot as plt

from moe import report
from moe.config import ConfigError
from moe.report import plots
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
    assert path.parent == folder / 'report'
    assert (path.name == 'index.html') == (not others)
    text = path.read_text()
    return text, Parsed(text)


def overview(parsed):
    """Cells of the first table, by run and row."""
    head, *rows = parsed.rows
    # The next table has a heading of its own.
    rows = list(itertools.takewhile(lambda r: r[1:] != head[1:], rows))
    return {
        run: {row[0]: row[i] for row in rows} for i, run in enumerate(head) if i
    }


def test_table(tmp_path):
    _, parsed = page(runs.write(tmp_path / 'one'))
    found = overview(parsed)['one']
    assert found == {
        'steps': '4',
        'validation bits/byte': '1.5000',
        'validation loss': '1.5000',
        'train loss': '2.0000',
        'largest load / uniform': '2.25',  # of the last layer, at the end
        'speed without evaluations': '3,086 tokens/s',  # the median
    }


def test_pictures_are_in_the_page(tmp_path):
    # Losses; bits per byte; two auxiliary losses; the speed; the loads;
    # entropy, violation.
    _, parsed = page(runs.write(tmp_path / 'one'))
    assert len(parsed.images) == 8
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
    # The config is text, not markup.
    _, parsed = page(runs.write(tmp_path / 'one', note='<b>&'))
    assert '"note": "<b>&"' in parsed.text
    assert 'b' not in {tag for tag, _ in parsed.tags}


def test_sections_of_a_workload(tmp_path):
    # Of each run on the page, after its figures and before its config.
    sections = report.Sections(
        summary=lambda run: [f'as {run.workdir.name}', 'said'],
        details=lambda run: [f'<h2>Of {run.workdir.name}</h2>'],
    )
    one, two = (runs.write(tmp_path / name) for name in ('one', 'two'))
    path = report.write(one, [two], lambda run: sections)
    heads = re.findall('<h[12]>(.*?)</h[12]>', path.read_text())
    assert heads == [
        *('one | two', 'Results', 'Auxiliary losses', 'Cost'),
        *('one', 'Mixture layers in training', 'Of one', 'Config'),
        *('two', 'Mixture layers in training', 'Of two', 'Config'),
    ]
    lines = report.summary(one, lambda run: sections).splitlines()
    assert lines[2:] == ['as one', 'said']


def test_comparison(tmp_path):
    # Folders of the same name: their parents tell them apart.
    one = runs.write(tmp_path / 'a' / 'run')
    changed = [{**m, 'eval/loss': 9.25} for m in runs.lines()]
    two = runs.write(tmp_path / 'b' / 'run', changed)
    for folder, fingerprint in ((one, '1f'), (two, '2e')):
        described = json.dumps({'fingerprint': fingerprint})
        (folder / 'data.json').write_text(described)
    text, parsed = page(one, two)
    assert 'on different data, or on other splits: a/run on 1f;' in text
    found = overview(parsed)
    assert list(found) == ['a/run', 'b/run']
    losses = [cells['validation loss'] for cells in found.values()]
    assert losses == ['1.5000', '9.2500']
    assert '<h1>a/run</h1>' in text
    assert '<h1>b/run</h1>' in text
    # Five comparisons, and three pictures of each.
    assert len(parsed.images) == 5 + 2 * 3
    assert not (two / 'report').exists()


def test_comparison_with_a_dense_run(tmp_path):
    dense = [
        {k: v for k, v in m.items() if not re.match('moe/|train/(lo|ro).*_', k)}
        for m in runs.lines()
    ]
    one = runs.write(tmp_path / 'mixture')
    two = runs.write(tmp_path / 'dense', dense, routing=False)
    _, parsed = page(two, one)
    loads = [c['largest load / uniform'] for c in overview(parsed).values()]
    assert loads == ['-', '2.25']
    assert len(parsed.images) == 5 + 3
    _, alone = page(two)
    assert len(alone.images) == 3


def test_no_section_is_empty(tmp_path):
    text, _ = page(
        runs.write(tmp_path / 'one', [{'step': 1, 'train/loss': 1.0}])
    )
    heads = re.findall('<h2>(.*?)</h2>(.)', text)
    assert heads == [('Results', '<'), ('Config', '<')]


def test_written_again(tmp_path):
    folder = runs.write(tmp_path / 'one')
    first, _ = page(folder)
    second, _ = page(folder)
    assert first == second


def test_a_comparison_leaves_the_page_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, 'curves', lambda *args, **options: None)
    monkeypatch.setattr(plots, 'expert_map', lambda *args: None)
    one, two, three = (runs.write(tmp_path / n) for n in ('one', 'b', 'c d'))
    alone, _ = page(one)
    assert report.write(one, [two]).name == 'with-b.html'
    # A run of another folder, though of the same name, has a page of its own.
    other = runs.write(tmp_path / 'elsewhere' / 'b')
    assert report.write(one, [other]) != report.write(one, [two])
    for path in (one / 'report').glob('with-b-*'):
        path.unlink()
    # The blank is no character of a name; a hash keeps names apart.
    (name,) = {report.write(one, [two, three]).name}
    assert re.fullmatch(r'with-b\+c-d-[0-9a-f]{8}\.html', name)
    found = sorted(p.name for p in (one / 'report').iterdir())
    assert found == sorted(['index.html', 'with-b.html', name])
    assert (one / 'report' / 'index.html').read_text() == alone
    long = [runs.write(tmp_path / (x * 200)) for x in 'xy']
    assert len(report.write(one, long).name) < 255


HOSTILE = '$</title><script>alert(1)</script><svg onload="x()">\'"&\u2028${x}`'


def test_hostile_texts_are_only_text(tmp_path):
    # Everywhere that a stranger's run can have a text, names of folders too.
    name = HOSTILE.replace('/', '\\')
    metrics = [
        {
            **m,
            f'train/{HOSTILE}': 2.0 + m['step'],
            f'eval/{HOSTILE}': 1.0,
            f'moe/{HOSTILE}/load': [1.0, 2.0],
            f'moe/layer_1/{HOSTILE}': 1.0,
        }
        for m in runs.lines()
    ]
    folder = runs.write(
        tmp_path / name, metrics, losses={HOSTILE: 1.0}, note=HOSTILE
    )
    other = runs.write(tmp_path / 'b')
    for text, _ in (page(folder), page(folder, other)):  # all tags are closed
        for opening in ('<script', '<svg', '<title></title>', 'onload="x'):
            assert opening not in text


@pytest.mark.parametrize(
    ('name', 'content'),
    [
        ('config.json', '[1]'),
        ('config.json', '{"losses": [3]}'),
        ('config.json', '\0'),
        ('metrics.jsonl', '[1]\n'),
        ('metrics.jsonl', '{"train/loss": 1}\n'),
        ('metrics.jsonl', '{"step": "x", "train/loss": 1}\n'),
        ('metrics.jsonl', '{"step": 1, "train/loss": {"a": 1}}\n'),
        ('metrics.jsonl', '{"step": 1, "moe/layer_1/load": 3}\n'),
    ],
)
def test_damaged_files_are_told_in_one_line(tmp_path, name, content):
    folder = runs.write(tmp_path / 'run')
    (folder / name).write_text(content)
    for show in (report.summary, report.write):
        with contextlib.suppress(ConfigError):
            show(folder)


def test_run_without_an_evaluation_yet(tmp_path):
    # Stopped before its first pass over the validation text.
    folder = runs.write(
        tmp_path / 'young', list(runs.lines())[:1], sample='', routing=False
    )
    _, parsed = page(folder)
    found = overview(parsed)['young']
    assert 'validation loss' not in found
    assert 'validation bits/byte' not in found
    assert found['train loss'] == '5.0000'
    assert isinstance(report.summary(folder), str)


def test_summary(tmp_path):
    text = report.summary(runs.write(tmp_path / 'one'))
    assert text.splitlines() == [
        'validation: 1.5000 bits/byte, loss 1.5000',
        'largest load: 2.25 times uniform, in layer 3',
    ]


def test_summary_of_what_a_run_cost_and_of_loads_in_evaluation(tmp_path):
    # 50,000 tokens of 2 + 3 FLOPs, at a median of 250 a second: 200 s.
    lines = [
        {
            **line,
            'cost/tokens_seen': 12_500.0 * line['step'],
            'cost/flops_per_token/experts': 2.0,
            'cost/flops_per_token/head': 3.0,
            'train/tokens_per_second': [100.0, 200.0, 300.0, 900.0][i],
            'eval/moe/layer_1/load_max': 1.25,
            'eval/moe/layer_3/load_max': 1.125,
        }
        for i, line in enumerate(runs.lines())
    ]
    text = report.summary(runs.write(tmp_path / 'one', lines))
    assert text.splitlines()[1:] == [
        'largest load: 1.25 times uniform in validation, in layer 1',
        'cost: 50,000 tokens, 2.50e+05 FLOPs of the model, 3m20s of training',
    ]


@pytest.mark.parametrize('missing', ['config.json', 'metrics.jsonl', None])
def test_no_run(tmp_path, missing):
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
        assert (missing or 'config.json') in caught.value.allowed
    assert not (good / 'report').exists()
