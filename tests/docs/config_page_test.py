"""docs/reference/config.md is what the code says."""

import subprocess
import sys

import pytest

from tests.commands import ROOT
from tests.docs import config_page

CODE = 'from tests.docs import config_page; print(config_page.page())'


@pytest.fixture(scope='module')
def text():
    # In a process of its own: other tests register choices of theirs.
    command = [sys.executable, '-c', CODE]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def test_the_page_is_up_to_date(text):
    assert config_page.written().strip() == text.strip(), (
        'python -m tests.docs.config_page'
    )


def test_fields_stand_once(text):
    headings = [h for h in text.splitlines() if h.startswith('### ')]
    for heading in ('### Choices of `config.optimizer`', '### `config.mesh`'):
        assert headings.count(heading) == 1
    assert '| `learning_rate` | float' in text
    assert text.count('| `learning_rate` |') == 1
