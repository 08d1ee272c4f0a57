"""The task of a config is the one that it names."""

import json

import pytest

from configs import lm, vision
from moe.config import ConfigError
from moe.workloads.lm.workload import LanguageConfig
from moe.workloads.registry import read_config, read_run
from moe.workloads.vision.workload import VisionConfig


def test_by_name():
    found = read_config(lm.get_config().to_dict())
    assert isinstance(found, LanguageConfig)
    found = read_config(vision.get_config().to_dict())
    assert isinstance(found, VisionConfig)


@pytest.mark.parametrize('name', [None, 'audio', 3])
def test_unknown_task(name):
    with pytest.raises(ConfigError) as caught:
        read_config({'task': name})
    names = "'lm', 'synthetic', 'table', 'vision'"
    message = f'config.task = {name!r}: must be one of {names}'
    assert str(caught.value) == message


@pytest.mark.parametrize('text', [None, '{"task": "lm"', '[]'])
def test_folder_without_a_run(tmp_path, text):
    if text is not None:
        (tmp_path / 'config.json').write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_run(tmp_path)
    assert str(caught.value).endswith("must be a run's folder")


def test_folder_of_a_run(tmp_path):
    plain = lm.get_config().to_dict()
    plain['seed'] = 7
    (tmp_path / 'config.json').write_text(json.dumps(plain))
    found = read_run(tmp_path)
    assert isinstance(found, LanguageConfig)
    assert found.seed == 7


def test_each_task_refuses_the_others_sections():
    plain = vision.get_config().to_dict()
    with pytest.raises(ConfigError, match='missing sample_prompt'):
        read_config({**plain, 'task': 'lm'})
