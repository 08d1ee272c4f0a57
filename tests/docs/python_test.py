"""The Python of the pages runs, one page after another in a namespace."""

import pytest

from tests.docs.blocks import PAGES, ROOT, blocks, write_files

pytestmark = pytest.mark.slow

# Their Python reads what their commands have trained: see `runs_test`.
AFTER_RUNS = (
    'tutorial/first-experiment.md',
    'notebook.md',
    'your-own-table.md',
)


def of(page):
    """The blocks of a page that run, without the files."""
    return [b for b in blocks(page) if b.language == 'python' and not b.title]


HERE = [p for p in PAGES if of(p) and not str(p).endswith(AFTER_RUNS)]


def run(page, folder):
    """Runs the blocks of a page in a folder; returns what they define."""
    write_files(page, folder)
    namespace = {'__name__': 'page'}
    for block in of(page):
        # As many empty lines before, so that an error tells its line.
        source = '\n' * (block.line - 1) + block.text
        exec(compile(source, block.page, 'exec'), namespace)
    return namespace


@pytest.mark.parametrize(
    'page', HERE, ids=lambda page: str(page.relative_to(ROOT))
)
@pytest.mark.usefixtures('own_registries')
def test_the_python_of_a_page_runs(page, folder):
    run(page, folder)


def test_pages_have_python():
    assert len(HERE) >= 5
