"""`list` shows step, date, size and soundness."""

import re

import pytest

from moe.checkpoints.__main__ import main
from moe.checkpoints.listing import size
from tests.checkpoints.verify_test import damaged
from tests.training import damage


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp('saved')
    damage.save(folder, 2, 4)
    return folder


def test_list(saved, tmp_path, capsys):
    folder = damaged(saved, tmp_path / 'run', '2')
    damage.copy(folder / 'checkpoints' / '4', folder / 'checkpoints/damaged-6')
    assert main(['', 'list', str(folder)]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.split() == ['step', 'date', 'size', 'good?']
    row = r' +{}  \d{{4}}-\d\d-\d\d \d\d:\d\d +\d+(\.\d)? kB  {}'
    for line, step, good in zip(
        lines,
        ('4', '2', ''),
        ('yes', 'no: .*/2 is damaged: leaf .*', 'set aside as damaged-6'),
        strict=True,
    ):
        assert re.fullmatch(row.format(step, good), line), line
    assert main(['', 'list', '--records', str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith('not read')
    assert lines[2].endswith('not read')


def test_sizes(tmp_path):
    (tmp_path / 'a' / 'b').mkdir(parents=True)
    (tmp_path / 'a' / 'x').write_bytes(bytes(10))
    (tmp_path / 'a' / 'b' / 'y').write_bytes(bytes(20))
    assert size(tmp_path) == 30
    assert size(tmp_path / 'a' / 'x') == 10
