"""The workload of a config is the one that it names."""

import pytest

from configs import lm, vision
from moe.config import ConfigError, Text
from moe.training.folder import write_plain_config
from moe.workloads.lm.workload import LanguageConfig
from moe.workloads.registry import (
    WORKLOADS,
    fields_of,
    plain_of,
    read_config,
    read_run,
)
from moe.workloads.vision.workload import VisionConfig


def test_by_name():
    found = read_config(lm.get_config().to_dict())
    assert isinstance(found, LanguageConfig)
    found = read_config(vision.get_config().to_dict())
    assert isinstance(found, VisionConfig)


@pytest.mark.parametrize('name', [None, 'audio', 3])
def test_unknown_workload(name):
    with pytest.raises(ConfigError) as caught:
        read_config({'workload': name})
    start = f'config.workload = {name!r}: must be one of '
    assert str(caught.value).startswith(start)
    assert "'lm', " in str(caught.value)


def test_a_run_from_before_the_renaming_is_told_the_new_name(tmp_path):
    (tmp_path / 'config.json').write_text('{"task": "lm", "steps": 3}')
    with pytest.raises(ConfigError, match=r'task became config\.workload'):
        read_run(tmp_path)
    with pytest.raises(ConfigError) as caught:
        read_config({'task': 'lm', 'steps': 3})
    line = "config.task = 'lm': must be absent: the field is now workload, one "
    assert str(caught.value).startswith(line)


def test_plugins_come_before_the_fields_that_need_them(tmp_path):
    path = tmp_path / 'plugin.py'
    path.write_text(
        'from moe.training.schedules import SCHEDULES, constant\n\n'
        "@SCHEDULES.register('mine')\n"
        'def mine(peak, steps, *, depth: int = 3):\n'
        '    return constant(peak, steps)\n'
    )
    plain = {'workload': 'lm'}
    overrides = [
        ('optimizer.schedule', Text('mine')),
        ('optimizer.schedule.depth', Text('5')),
        ('plugins', Text(f"('{path}',)")),
    ]
    config = read_config(plain, overrides)
    assert config.optimizer.schedule.keywords == {'depth': 5}
    assert plain_of(config)['plugins'] == [str(path)]
    # And from the file.
    section = {'schedule': 'mine'}
    plain = {'workload': 'lm', 'plugins': [str(path)], 'optimizer': section}
    found = plain_of(read_config(plain))['optimizer']['schedule']
    assert found == {'name': 'mine', 'depth': 3}


@pytest.mark.parametrize('text', [None, '{"task": "lm"', '[]'])
def test_folder_without_a_run(tmp_path, text):
    if text is not None:
        (tmp_path / 'config.json').write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_run(tmp_path)
    expected = 'whole' if text else "must be a run's folder"
    assert expected in str(caught.value)


def test_folder_of_a_run(tmp_path):
    config = read_config(lm.get_config(), [('seed', 7)])
    write_plain_config(tmp_path, plain_of(config))
    found = read_run(tmp_path)
    assert plain_of(found) == plain_of(config)
    assert found.seed == 7


def test_each_workload_refuses_the_others_fields():
    plain = plain_of(read_config(vision.get_config()))
    with pytest.raises(ConfigError, match=r'config\.[\w.]+ = .*no such'):
        read_config({**plain, 'workload': 'lm'})


def test_fields_of(tmp_path):
    text = fields_of(['--config=configs/lm.py', '--config.steps=3'])
    assert 'config.model.moe.router(name=top_k).k = 2  (int >= 1)' in text
    assert 'config.data.source(name=text).files' in text
    assert '# workload' not in text
    # Plugins of the command line count.
    path = tmp_path / 'plugin.py'
    path.write_text(
        'from moe.training.schedules import SCHEDULES, constant\n\n'
        "@SCHEDULES.register('shown')\n"
        'def shown(peak, steps, *, depth: int = 3):\n'
        '    return constant(peak, steps)\n'
    )
    assert 'schedule(name=shown)' not in text
    plugin = f'--config.plugins={path}'
    text = fields_of(['--config=configs/lm.py', plugin])
    assert 'config.optimizer(name=adamw).schedule(name=shown).depth' in text
    everything = fields_of([])
    for workload in WORKLOADS:
        assert f'# workload = {workload}\n' in everything
