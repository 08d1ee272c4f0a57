"""HTML of report pages: sections, figures and tables."""

import base64
import html
from collections.abc import Callable, Mapping, Sequence

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;
padding:0 1rem;color:#222;overflow-wrap:anywhere}
img{max-width:100%;height:auto}
h2{border-bottom:2px solid #eee;margin-top:2.2rem}
pre{background:#f6f6f6;padding:.8rem;font-size:12.5px;white-space:pre-wrap}
table{border-collapse:collapse}
.wide{overflow-x:auto;max-width:100%;margin:.6rem 0 1rem}
td,th{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child,.words td,.words th{text-align:left}
th,td:first-child{overflow-wrap:normal}
.shades td,.shades th{padding:.2rem .5rem;overflow-wrap:normal}
figure{display:inline-block;width:48%;margin:.5rem .5% 1rem;
vertical-align:top} figcaption,.note{color:#666;font-size:13px}
summary{cursor:pointer} .map{max-height:22rem;overflow:auto;line-height:1.7}
@media(max-width:700px){body{margin:1rem auto;padding:0 .7rem}
h1{font-size:1.5rem} figure{width:100%;margin:.5rem 0 1rem}
td,th{padding:.2rem .4rem;font-size:13px}
.shades td,.shades th{padding:.1rem .2rem;font-size:11px}}
"""


def page(title: str, parts: Sequence[str], style: str = '') -> str:
    """Returns a static page, without other files.

    Args:
      title: title of the page, text.
      parts: parts of the page, HTML.
      style: further CSS.
    """
    title = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<title>{title}</title><style>{_STYLE}{style}</style>'
        f'<h1>{title}</h1>{"".join(parts)}</html>\n'
    )


def section(title: str, parts: Sequence[str], level: int = 2) -> str:
    """Returns parts below a heading; '' if none of them has anything.

    Args:
      title: the heading, text.
      parts: HTML.
      level: of the heading.
    """
    text = ''.join(parts)
    if not text:
        return ''
    return f'<h{level}>{html.escape(title)}</h{level}>{text}'


def paragraph(text: str, name: str = 'note') -> str:
    """Returns a paragraph of text.

    Args:
      text: the text; '' makes the result ''.
      name: class of its style.
    """
    return f'<p class="{name}">{html.escape(text)}</p>' if text else ''


def folded(title: str, content: str, is_open: bool = False) -> str:
    """Returns what is shown when its title is touched.

    Args:
      title: the title, text.
      content: HTML.
      is_open: whether it is shown at first.
    """
    state = ' open' if is_open else ''
    title = html.escape(title)
    return f'<details{state}><summary>{title}</summary>{content}</details>'


def figure(png: bytes | None, caption: str) -> str:
    """Returns an embedded picture with its caption.

    Args:
      png: bytes of the picture; None makes the result ''.
      caption: caption below the picture, text.
    """
    if png is None:
        return ''
    data = base64.b64encode(png).decode()
    return (
        f'<figure><img alt="{html.escape(caption)}" '
        f'src="data:image/png;base64,{data}">'
        f'<figcaption>{html.escape(caption)}</figcaption></figure>'
    )


def table(
    rows: Mapping[str, Mapping[str, str]],
    columns: Sequence[str],
    corner: str,
    style: str = 'numbers',
) -> str:
    """Returns a table of texts, with a dash for absent ones.

    Args:
      rows: texts by row and column; without any the result is ''.
      columns: names of the columns, in order.
      corner: heading of the rows.
      style: numbers, which stand at the right, or words.
    """
    if not rows:
        return ''
    head = ''.join(f'<th>{html.escape(c)}</th>' for c in (corner, *columns))
    body = ''.join(
        f'<tr><td>{html.escape(name)}</td>'
        + ''.join(f'<td>{html.escape(row.get(c, "-"))}</td>' for c in columns)
        + '</tr>'
        for name, row in rows.items()
    )
    return (
        f'<div class="wide"><table class="{style}"><tr>{head}</tr>{body}'
        '</table></div>'
    )


def shade_table(
    rows: Mapping[str, Sequence[float]],
    columns: Sequence[str],
    hue: Callable[[str, str], int] = lambda row, column: 0,
) -> str:
    """Returns a table of numbers, shaded by their share of the row.

    Args:
      rows: numbers by row, not negative.
      columns: names of the columns, in order.
      hue: hue of a cell in degrees, a function of its row and column.
    """

    def cell(row: str, column: str, number: float, total: float) -> str:
        light = 100 - 50 * number / (total or 1)
        colour = f'hsl({hue(row, column)} 80% {light:.0f}%)'
        text = f'{number:.3g}' if number else ''
        return f'<td style="background:{colour}">{text}</td>'

    head = ''.join(f'<th>{html.escape(c)}</th>' for c in columns)
    body = ''.join(
        f'<tr><th>{html.escape(name)}</th>'
        + ''.join(
            cell(name, column, number, sum(numbers))
            for column, number in zip(columns, numbers, strict=True)
        )
        + '</tr>'
        for name, numbers in rows.items()
    )
    return (
        f'<div class="wide"><table class="shades"><tr><th></th>{head}</tr>'
        f'{body}</table></div>'
    )
