"""docs/benchmarks.md, its pictures and README's figures, from JSON lines."""

import pathlib
import re
from collections.abc import Iterator, Sequence

from benchmarks import record
from benchmarks.layer import DROPLESS
from benchmarks.record import Record
from benchmarks.sections import PICTURES, SECTIONS, grouped, paragraph, section
from benchmarks.step import MIXTURE

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / 'docs' / 'benchmarks.md'
README = ROOT / 'README.md'
# README's paragraph on time begins so.
BEGINNING = 'A whole step takes '

_HEAD = """\
# Benchmarks

Measured by `python -m benchmarks SUITE --json=benchmarks/results/SUITE.jsonl`;
`python -m benchmarks docs` makes this page of those lines. The cases of a suite
take turns in one process, each round beginning with another one; times are
medians, with the first and the third quartile. What is not installed, or has no
device here, is listed as not run. PyTorch and the libraries on it are the extra
`peers`. [Performance](explanation/performance.md) explains the figures.
"""


def text(records: Sequence[Record]) -> str:
    """Returns the page.

    Args:
      records: lines of all suites.
    """
    lines = _HEAD.splitlines()
    for suite, (title, _) in SECTIONS.items():
        lines += ['', f'## {title}', '']
        found = [r for r in records if r['suite'] == suite]
        if not found:
            lines += paragraph(f'Not run yet: `python -m benchmarks {suite}`.')
            continue
        if suite in PICTURES:
            lines += [f'![{title}](images/{PICTURES[suite]})', '']
        lines += [*section(suite, found), '', *_surroundings(found)]
    return re.sub(r'\n{3,}', '\n\n', '\n'.join(lines)).strip() + '\n'


def _surroundings(records: Sequence[Record]) -> Iterator[str]:
    """What the lines of a suite were measured on, and by which commands."""
    for (command,), found in grouped(records, 'command').items():
        first, loads = found[0], [r['load_average'] for r in found]
        machine, versions = first['machine'], first['versions']
        device = machine['device']
        where = '' if machine['platform'] == 'cpu' else f', {device}'
        names = ', '.join(f'{n} {v}' for n, v in versions.items())
        yield from ['```sh', command, '```', '']
        yield from paragraph(
            f'{machine["processor"]}, {machine["cores"]} cores{where}; '
            f'{names}; load average {min(loads):.1f} to {max(loads):.1f}, its '
            f'own threads included; {first["time"][:10]}.'
        )


def readme_figures(records: Sequence[Record]) -> str | None:
    """Returns README's sentences on time; None before they are measured.

    Args:
      records: lines of all suites.
    """
    layers = {
        r['num_experts']: r['dense_over_time']
        for r in records
        if r['suite'] == 'layer'
        and (r['case'], r.get('load')) == (DROPLESS, 'balanced')
        and r['hidden'] == 2048
        and 'milliseconds' in r
    }
    steps = {
        r['case']: r.get('time_over_dense')
        for r in records
        if r['suite'] == 'step'
    }
    if not {8, 64} <= set(layers) or not steps.get(MIXTURE):
        return None
    sentences = (
        f'{BEGINNING}{steps[MIXTURE]:.1f} times as long as the dense one. The '
        'dropless layer, which is the default, runs at '
        f'{layers[8]:.2f} of the speed of a dense layer of the same useful '
        f'FLOPs at E = 8, and at {layers[64]:.2f} at E = 64: see '
        '[benchmarks](docs/benchmarks.md).'
    )
    return '\n'.join(paragraph(sentences)).strip()


def with_figures(readme: str, records: Sequence[Record]) -> str:
    """Returns README with the figures of the records, if there are some.

    Args:
      readme: README as it is.
      records: lines of all suites.
    """
    figures = readme_figures(records)
    if figures is None:
        return readme
    paragraphs = readme.split('\n\n')
    (place,) = (i for i, p in enumerate(paragraphs) if p.startswith(BEGINNING))
    paragraphs[place] = figures
    return '\n\n'.join(paragraphs)


def write() -> list[pathlib.Path]:
    """Rewrites the page, its pictures and README's figures; returns paths."""
    from benchmarks import pictures  # not before: it needs matplotlib

    records = record.read(record.RESULTS)
    PAGE.write_text(text(records))
    README.write_text(with_figures(README.read_text(), records))
    return [PAGE, README, *pictures.draw(records, PAGE.parent / 'images')]
