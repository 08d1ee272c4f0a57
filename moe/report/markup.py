"""HTML of report pages: figures and tables."""

import base64
import html
from collections.abc import Callable, Mapping, Sequence

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;
padding:0 1rem;color:#222} img{max-width:100%;height:auto}
pre{background:#f6f6f6;padding:.8rem;overflow:auto;font-size:12.5px}
table{border-collapse:collapse} td,th{padding:.2rem .8rem;text-align:right;
border-bottom:1px solid #ddd} td:first-child,th:first-child{text-align:left}
figure{display:inline-block;width:48%;margin:.5rem .5% 1rem;
vertical-align:top} figcaption{color:#666;font-size:13px}
.map{max-height:22rem} .map span{white-space:pre-wrap}
"""


def page(title: str, parts: Sequence[str]) -> str:
    """Returns a static page, without other files.

    Args:
      title: title of the page, text.
      parts: parts of the page, HTML.
    """
    title = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<title>{title}</title><style>{_STYLE}</style>'
        f'<h1>{title}</h1>{"".join(parts)}</html>\n'
    )


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
    rows: Mapping[str, Mapping[str, str]], columns: Sequence[str], corner: str
) -> str:
    """Returns a table of texts, with a dash for absent ones.

    Args:
      rows: texts by row and column.
      columns: names of the columns, in order.
      corner: heading of the rows.
    """
    head = ''.join(f'<th>{html.escape(c)}</th>' for c in (corner, *columns))
    body = ''.join(
        f'<tr><td>{html.escape(name)}</td>'
        + ''.join(f'<td>{html.escape(row.get(c, "-"))}</td>' for c in columns)
        + '</tr>'
        for name, row in rows.items()
    )
    return f'<table><tr>{head}</tr>{body}</table>'


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
    return f'<table><tr><th></th>{head}</tr>{body}</table>'
