"""`prune` deletes older checkpoints, never the last good one."""

import pytest

from moe.checkpoints.__main__ import main
from tests.checkpoints.verify_test import damaged
from tests.training import damage


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp('saved')
    damage.save(folder, 2, 4, 6)
    return folder


def names(folder):
    return sorted(path.name for path in (folder / 'checkpoints').iterdir())


def test_the_newest_stay(saved, tmp_path, capsys):
    folder = damage.copy(saved, tmp_path / 'run')
    (folder / 'checkpoints' / 'damaged-8').mkdir()
    (folder / 'checkpoints' / 'diverged-9').write_text('')
    assert main(['', 'prune', str(folder), '--keep=2']) == 0
    out = capsys.readouterr().out
    assert out == f'deleted {folder}/checkpoints/2\n'
    assert names(folder) == ['4', '6', 'damaged-8', 'diverged-9']
    assert main(['', 'prune', str(folder), '--keep=9', '--set_aside']) == 0
    assert names(folder) == ['4', '6']
    assert damage.same(damage.resume(folder)[0], 6)


def test_a_damaged_one_does_not_count(saved, tmp_path):
    # One is to stay: 6 is damaged, so 4 does; 6 is left for the run.
    folder = damaged(saved, tmp_path / 'run', '6')
    assert main(['', 'prune', str(folder), '--keep=1']) == 0
    assert names(folder) == ['4', '6']


def test_none_is_good(saved, tmp_path, capsys):
    folder = damage.copy(saved, tmp_path / 'run')
    for step in '246':
        (folder / 'checkpoints' / step / 'data' / 'metadata').unlink()
    assert main(['', 'prune', str(folder), '--keep=1', '--set_aside']) == 3
    assert names(folder) == ['2', '4', '6']
    assert capsys.readouterr().err.count('\n') == 1
