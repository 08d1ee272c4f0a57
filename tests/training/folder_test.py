"""What a run's folder says of it, and what is refused there."""

import dataclasses
import json

import pytest

from moe.config import ConfigError
from moe.training import folder

PLAIN = {'seed': 0, 'model': {'d': 4}, 'widths': (1, 2), 'mesh': {'data': 2}}


def test_description_comes_back(tmp_path):
    path = tmp_path / 'a' / 'run'
    folder.write_description(path, PLAIN, {'rows': 3})
    assert folder.read_plain_config(path) == {**PLAIN, 'widths': [1, 2]}
    assert json.loads((path / 'config.json').read_text())['format'] == 2
    assert json.loads((path / 'data.json').read_text()) == {'rows': 3}


@pytest.mark.parametrize(
    ('theta', 'rope'), [(30.0, {'theta': 30.0}), (None, None)]
)
def test_fields_of_old_names_are_read(tmp_path, theta, rope):
    plain = {'model': {'d': 4, 'rope_theta': theta}}
    folder.write_description(tmp_path, plain, {})
    desired = {'model': {'d': 4, 'rope': rope}}
    assert folder.read_plain_config(tmp_path) == desired


def test_no_such_folder_can_be(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(ConfigError, match='the name of a new one'):
        folder.write_description(tmp_path / 'file', PLAIN, {})


@pytest.mark.parametrize('text', [None, '', '{"seed": 1', '[]', '3'])
def test_folder_without_a_config(tmp_path, text):
    if text is not None:
        (tmp_path / 'config.json').write_text(text)
    with pytest.raises(ConfigError, match=r"a run's folder|config\.json"):
        folder.read_plain_config(tmp_path)


@pytest.mark.parametrize(
    ('written', 'allowed'),
    [
        ({}, 'a new folder: its run is from before format 2'),
        ({'format': 3}, 'a run of format 2 (it is 3; update first)'),
        ({'format': '2'}, "a run of format 2 (it is '2'; update first)"),
    ],
)
def test_other_formats(tmp_path, written, allowed):
    (tmp_path / 'config.json').write_text(json.dumps({**PLAIN, **written}))
    with pytest.raises(ConfigError) as caught:
        folder.read_plain_config(tmp_path)
    assert allowed in str(caught.value)
    assert '\n' not in str(caught.value)


@dataclasses.dataclass(frozen=True)
class Model:
    """Of which `depth` came later."""

    d: int
    depth: int = 2


@dataclasses.dataclass(frozen=True)
class Small:
    """A config, of which all that has a default came later."""

    seed: int
    model: Model
    workload: str = 'small'
    widths: tuple[int, ...] = (1,)
    mesh: int = -1


NOW = Small(seed=3, model=Model(4))


@pytest.mark.parametrize(
    'written',
    [
        {'seed': 3, 'model': {'d': 4}, 'workload': 'small'},
        {'seed': 3, 'model': {'d': 4, 'depth': 2}, 'workload': 'small'},
        {'seed': 3, 'model': {'d': 4}, 'workload': 'small', 'widths': [1]},
        {'seed': 3, 'model': {'d': 4}, 'workload': 'small', 'mesh': 8},
    ],
)
def test_a_run_made_before_a_field_existed_is_the_same(tmp_path, written):
    folder.write_plain_config(tmp_path, written)
    folder.check_same_config(tmp_path, NOW)


@pytest.mark.parametrize(
    ('written', 'told'),
    [
        (
            {'seed': 0, 'model': {'d': 5}, 'workload': 'small'},
            'config.model.d: 5 there, 4 now; config.seed: 0 there, 3 now',
        ),
        # A default of today was something else in the run.
        (
            {'seed': 3, 'model': {'d': 4, 'depth': 1}, 'workload': 'small'},
            'config.model.depth: 1 there, 2 now',
        ),
        # What a newer version of the project wrote.
        (
            {'seed': 3, 'model': {'d': 4, 'colour': 1}, 'workload': 'small'},
            'config.model.colour = 1: must be absent: no such field',
        ),
        ({'workload': 'large'}, "config.workload: 'large' there, 'small' now"),
    ],
)
def test_every_difference_is_told(tmp_path, written, told):
    folder.write_plain_config(tmp_path, written)
    with pytest.raises(ConfigError) as caught:
        folder.check_same_config(tmp_path, NOW)
    assert caught.value.field == 'workdir'
    assert told in caught.value.allowed
    assert '\n' not in str(caught.value)


def test_no_run_yet(tmp_path):
    folder.check_same_config(tmp_path / 'new', NOW)


def test_data(tmp_path):
    folder.check_same_data(tmp_path, {'rows': 4})  # there is none yet
    folder.write_description(tmp_path, PLAIN, {'rows': 3})
    folder.check_same_data(tmp_path, {'rows': 3})
    with pytest.raises(ConfigError, match=r'data\.rows: 3 there, 4 now'):
        folder.check_same_data(tmp_path, {'rows': 4})
