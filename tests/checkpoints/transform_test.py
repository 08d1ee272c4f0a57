"""Reading one run and writing another."""

import pytest

from moe.checkpoints import transform
from moe.config import ConfigError, Damaged
from moe.training.folder import write_plain_config
from moe.training.restore import list_checkpoints
from tests import tiny
from tests.checkpoints.verify_test import damaged


def test_a_step(saved_run):
    assert transform.Source(saved_run, None).step == 4
    assert (
        transform.Source(saved_run, 2).path == saved_run / 'checkpoints' / '2'
    )
    with pytest.raises(ConfigError, match='that of a checkpoint'):
        transform.Source(saved_run, 3)


def test_a_damaged_leaf_is_told(saved_run, tmp_path):
    folder = damaged(saved_run, tmp_path / 'run', '4')
    source = transform.Source(folder, None)
    with pytest.raises(Damaged, match='--step takes another'):
        [source.read(name) for name in source.leaves]
    assert list_checkpoints(folder)


def test_a_folder_without_checkpoints(tmp_path):
    write_plain_config(tmp_path, tiny.plain())
    with pytest.raises(ConfigError, match='a run with a checkpoint'):
        transform.Source(tmp_path, None)


def test_changes(saved_run):
    source = transform.Source(saved_run, None)
    found = source.changed({'model.moe.num_experts': 8})
    assert found.model.moe.num_experts == 8
    assert found.steps == source.config.steps
    with pytest.raises(ConfigError, match='at most num_experts'):
        source.changed({'model.moe.num_experts': 1})


def test_data_of():
    given = [('data.source.files', 'a'), ('model.moe.router.k', '1')]
    assert transform.data_of(given) == given[:1]
