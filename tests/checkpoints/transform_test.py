"""Reading one run and writing another."""

import pytest

from moe.checkpoints import transform
from moe.config import ConfigError, Damaged
from moe.training.folder import write_plain_config
from moe.training.restore import list_checkpoints
from tests import tiny
from tests.checkpoints.verify_test import damaged
from tests.training import damage


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp('saved')
    damage.save(folder, 2, 4)
    write_plain_config(folder, tiny.plain())
    return folder


def test_a_step(saved):
    assert transform.Source(saved, None).step == 4
    assert transform.Source(saved, 2).path == saved / 'checkpoints' / '2'
    with pytest.raises(ConfigError, match='that of a checkpoint'):
        transform.Source(saved, 3)


def test_a_damaged_leaf_is_told(saved, tmp_path):
    folder = damaged(saved, tmp_path / 'run', '4')
    source = transform.Source(folder, None)
    with pytest.raises(Damaged, match='--step takes another'):
        [source.read(name) for name in source.leaves]
    assert list_checkpoints(folder)


def test_a_folder_without_checkpoints(tmp_path):
    write_plain_config(tmp_path, tiny.plain())
    with pytest.raises(ConfigError, match='a run with a checkpoint'):
        transform.Source(tmp_path, None)


def test_changes(saved):
    source = transform.Source(saved, None)
    found = source.changed({'model.moe.num_experts': 8})
    assert found.model.moe.num_experts == 8
    assert found.steps == source.config.steps
    with pytest.raises(ConfigError, match='at most num_experts'):
        source.changed({'model.moe.num_experts': 1})


def test_data_of():
    given = [('data.source.files', 'a'), ('model.moe.router.k', '1')]
    assert transform.data_of(given) == given[:1]
