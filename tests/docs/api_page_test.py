"""The table of the Python API names what there is."""

import importlib
import re

import pytest

from tests.docs.blocks import ROOT

PAGE = ROOT / 'docs' / 'reference' / 'api.md'
ROWS = re.findall(r'^\| (`moe.*?) \| (.*) \|$', PAGE.read_text(), re.MULTILINE)


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row[0])
def test_every_name_is_in_its_module(row):
    modules = [
        importlib.import_module(name)
        for name in re.findall(r'`([\w.]+)`', row[0])
    ]
    names = re.findall(r'`([A-Za-z]\w*)(?:\(.*?\))?`', row[1])
    assert names
    missing = [n for n in names if not any(hasattr(m, n) for m in modules)]
    assert not missing


def test_there_are_rows():
    assert len(ROWS) >= 10
