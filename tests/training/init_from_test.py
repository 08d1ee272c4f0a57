"""The section that says what a run takes of another."""

import pytest

from moe.config import ConfigError
from moe.training.init_from import InitFrom


def test_moments_of_other_parameters():
    with pytest.raises(ConfigError, match='optimizer = True: must be False'):
        InitFrom(run='x', map={'head': 'new'}, optimizer=True)


@pytest.mark.parametrize(
    ('run', 'folder', 'step'),
    [('a/b', 'a/b', None), ('a/b:12', 'a/b', 12), ('a:b', 'a:b', None)],
)
def test_a_step_behind_the_folder(run, folder, step):
    given = InitFrom(run=run)
    assert (str(given.folder), given.step) == (folder, step)
