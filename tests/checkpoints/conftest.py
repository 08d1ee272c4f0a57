"""Runs that several tests of checkpoints read."""

import pytest

from moe.training.folder import write_plain_config
from tests import tiny
from tests.training import damage


@pytest.fixture(scope='session')
def saved_run(tmp_path_factory):
    """A run's folder with checkpoints of steps 2 and 4, of some other state."""
    folder = tmp_path_factory.mktemp('saved')
    damage.save(folder, 2, 4)
    write_plain_config(folder, tiny.plain())
    return folder
