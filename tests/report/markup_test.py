"""Tables whose cells can be read back."""

import re

from moe.report.markup import (
    figure,
    page,
    shade_table,
    table,
)


def cells(text):
    rows = re.findall('<tr>(.*?)</tr>', text)
    return [re.findall('<t[hd][^>]*>(.*?)</t[hd]>', row) for row in rows]


def test_table():
    text = table({'a<b': {'x': '1'}, 'c': {'y': '2', 'x': '3'}}, 'xy', 'run')
    assert cells(text) == [
        ['run', 'x', 'y'],
        ['a&lt;b', '1', '-'],
        ['c', '3', '2'],
    ]


def test_shades_are_shares_of_the_row():
    # 1 of 4 is light 87.5 %, 3 of 4 62.5 %, rounded to even; nothing is white.
    text = shade_table(
        {'cat': [1, 3], 'dog': [0, 0]},
        ['cat', 'dog'],
        lambda row, column: 120 * (row == column),
    )
    assert cells(text) == [
        ['', 'cat', 'dog'],
        ['cat', '1', '3'],
        ['dog', '', ''],
    ]
    assert re.findall(r'hsl\((.*?)\)', text) == [
        '120 80% 88%',
        '0 80% 62%',
        '0 80% 100%',
        '120 80% 100%',
    ]


def test_figure():
    assert figure(None, 'none') == ''
    text = figure(b'abc', 'a < b')
    assert 'base64,YWJj"' in text
    assert '<figcaption>a &lt; b</figcaption>' in text


def test_page():
    text = page('a < b', ['<p>x</p>', '<p>y</p>'])
    assert '<title>a &lt; b</title>' in text
    assert '<h1>a &lt; b</h1><p>x</p><p>y</p></html>' in text
