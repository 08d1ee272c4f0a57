"""`verify` and the command line of `moe.checkpoints`."""

import pytest

from moe.checkpoints.__main__ import main
from moe.checkpoints.verify import find_damage
from moe.training.restore import list_checkpoints
from tests.training import damage


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp('saved')
    damage.save(folder, 2, 4)
    return folder


def damaged(saved, folder, step='4'):
    """A copy in which one value of a checkpoint has a flipped bit."""
    damage.copy(saved, folder)
    damage.flip_a_value(folder / 'checkpoints' / step)
    return folder


def test_every_leaf_is_read(saved, tmp_path):
    assert [find_damage(e) for e in list_checkpoints(saved)] == [None, None]
    folder = damaged(saved, tmp_path / 'run')
    newest, older = map(find_damage, list_checkpoints(folder))
    assert 'checkpoints/4 is damaged: leaf params/layers/0' in str(newest)
    assert older is None


def test_verify(saved, tmp_path, capsys):
    assert main(['', 'verify', str(saved)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f'{saved}/checkpoints/4 is whole: step 4',
        f'{saved}/checkpoints/2 is whole: step 2',
    ]
    folder = damaged(saved, tmp_path / 'run')
    before = damage.files(folder)
    assert main(['', 'verify', str(folder)]) == 3
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f'{folder}/checkpoints/4 is damaged: leaf ')
    assert second.endswith('checkpoints/2 is whole: step 2')
    assert main(['', 'verify', str(folder), '--step=2']) == 0
    assert main(['', 'verify', '--step=4', str(folder)]) == 3
    assert damage.files(folder) == before


WRONG = {
    'no command': (['nothing'], "command = 'nothing'"),
    'no folder': (['list'], 'the folder of one run'),
    'two folders': (['list', 'a', 'b'], "DIR = 'a b'"),
    'no such folder': (['best', 'no/such'], "a run's folder"),
    'no such flag': (['verify', '.', '--deep'], 'no such flag'),
    'no such step': (['verify', '{}', '--step=3'], 'of a checkpoint (2, 4)'),
    'nothing to verify': (['verify', '.'], 'of a run with a checkpoint'),
    'prune without keep': (['prune', '{}'], '--keep = None'),
    'keep nothing': (['prune', '{}', '--keep=0'], "keep = '0'"),
    'best without config': (['best', '{}'], "a run's folder"),
}


@pytest.mark.parametrize('name', WRONG)
def test_wrong_command_lines(name, saved, capsys):
    given, told = WRONG[name]
    before = damage.files(saved)
    assert main(['', *(a.format(saved) for a in given)]) == 2
    out, err = capsys.readouterr()
    assert out == ''
    assert err.startswith('moe.checkpoints: ')
    assert told in err
    assert err.count('\n') == 1
    assert damage.files(saved) == before


def test_help(capsys):
    assert main(['']) == 0
    assert 'list|verify|prune|best|' in capsys.readouterr().out
