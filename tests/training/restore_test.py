"""Which checkpoint is read, and what is told when it is another."""

import jax
import pytest

from moe.config import ConfigError
from moe.training import restore as restoring
from moe.training.record import Damage
from moe.training.restore import check_step, list_checkpoints, restore
from tests.training import damage


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp('saved')
    damage.save(folder, 2, 4)
    return folder


def test_the_newest_is_first(saved, tmp_path):
    folder = damage.copy(saved, tmp_path / 'run')
    checkpoints = folder / 'checkpoints'
    damage.copy(checkpoints / '2', checkpoints / '11')
    (checkpoints / '3').mkdir()
    for name in ('notes', 'damaged-7', '5.orbax-checkpoint-tmp'):
        (checkpoints / name).mkdir()
    found = [(e.path.name, e.step) for e in list_checkpoints(folder)]
    assert found == [('4', 4), ('3', 3), ('2', 2), ('11', 2)]
    damaged = [e.path.name for e in list_checkpoints(folder) if e.damage]
    assert damaged == ['3']
    assert list_checkpoints(tmp_path / 'absent') == []


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / 'checkpoints').write_text('')
    with pytest.raises(ConfigError, match='Not a directory'):
        list_checkpoints(tmp_path)


def test_damage_in_another_process_is_damage_here(saved, monkeypatch):
    # What the second process could not read, the first does not use.
    other = Damage('run/checkpoints/4', 'leaf key', 'is missing').plain
    monkeypatch.setattr(restoring, 'gather', lambda mine: [mine, other])
    with pytest.raises(Damage, match='checkpoints/4 is damaged: leaf key is'):
        restore(saved / 'checkpoints' / '4', damage.like())


def test_short_memory_is_no_damage(saved, monkeypatch):
    def read(*args):
        raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')

    monkeypatch.setattr(restoring, 'read_state', read)
    with pytest.raises(jax.errors.JaxRuntimeError, match='out of memory'):
        restore(saved / 'checkpoints' / '4', damage.like())


def test_steps_without_a_checkpoint():
    check_step(None, [])
    check_step(3, [1, 3])
    with pytest.raises(ConfigError, match=r'step = 2: .*\(1, 3\)'):
        check_step(2, [1, 3])
    with pytest.raises(ConfigError, match='there is none'):
        check_step(2, [])
