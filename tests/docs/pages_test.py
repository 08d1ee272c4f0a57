"""Pages link to what there is, are linked to, and keep their kinds."""

import re
import unicodedata

import pytest

from tests.docs.blocks import PAGES, ROOT, blocks

LANGUAGES = {'python', 'console', 'sh', 'text'}
KINDS = {'tutorial', 'how-to', 'reference', 'explanation'}
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def anchors(text):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(
        r'^#+ (.*)$', re.sub(r'```.*?```', '', text, flags=re.S), re.M
    )
    plain = (unicodedata.normalize('NFC', h).lower() for h in headings)
    return {re.sub(r'[^\w\- ]', '', h).replace(' ', '-') for h in plain}


def links(page):
    """Pairs of path and anchor of the page's links within the repository."""
    text = re.sub(r'^```.*?^```$', '', page.read_text(), flags=re.M | re.S)
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        if not re.match(r'[a-z]+:', target):
            path, _, anchor = target.partition('#')
            yield (page.parent / path).resolve() if path else page, anchor


@pytest.mark.parametrize('page', PAGES, ids=IDS)
def test_links_lead_somewhere(page):
    for path, anchor in links(page):
        assert path.exists(), path
        if anchor:
            assert anchor in anchors(path.read_text()), (path, anchor)


@pytest.mark.parametrize('page', PAGES, ids=IDS)
def test_every_block_is_of_a_kind_that_is_tested(page):
    for block in blocks(page):
        assert block.language in LANGUAGES, block.place
    assert page.read_text().count('```') == 2 * len(list(blocks(page)))
    assert '<<<<' not in page.read_text(), 'what a merge has left'


def test_every_page_is_in_the_index():
    index = ROOT / 'docs' / 'README.md'
    linked = {path for path, _ in links(index)}
    assert linked >= {p for p in PAGES if p.parent.name in KINDS}


def test_pages_are_of_four_kinds():
    others = {'README.md', 'docs/README.md', 'docs/benchmarks.md'}
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        assert page.parent.name in KINDS or name in others, name


def test_readme_is_short():
    assert len((ROOT / 'README.md').read_text().splitlines()) < 120


@pytest.mark.parametrize('page', PAGES, ids=IDS)
def test_lines_are_short(page):
    # But for links, tables and what is typed, none of which can be broken.
    text = re.sub(r'^```.*?^```$', '', page.read_text(), flags=re.M | re.S)
    short = lambda found: found[0] if len(found[0]) < 40 else ''
    for line in re.sub(r'`[^`\n]*`', short, text).splitlines():
        if len(line) > 80:
            assert line.startswith('|') or '](' in line, line
